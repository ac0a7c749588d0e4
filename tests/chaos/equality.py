"""Equality of stored tensors, as section 6.3 of the dataset's specification promises it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.verification.comparison import compare
from pipeline.verify import VerifyConfig
from schemas.identity import ComputeDtype

_MIN_COSINE = VerifyConfig.min_cosine
_SMALL = 1 / 16
"""Of a vector's root mean square: values below it count by how far they are apart, not by steps between them."""
_STEPS_AND_BITS = {"bfloat16": (1, 8), "float16": (1, 11), "float32": (2**13, 11)}
"""By storage dtype: steps of the dtype, and significant bits of that many steps."""

Vectors = npt.NDArray[np.generic]


def difference(expected: Vectors, actual: Vectors, compute_dtype: ComputeDtype, *, same_threads: bool) -> str | None:
    """Says how two tensors differ that must not; None if they are as equal as is promised.

    Args:
        expected: [T, D] or [D], of a storage dtype.
        actual: The same.
        compute_dtype: Of the encoder.
        same_threads: Whether both were computed on one kind of device with one number of threads.
    """
    if (expected.dtype, expected.shape) != (actual.dtype, actual.shape):
        return f"{actual.dtype} {actual.shape} instead of {expected.dtype} {expected.shape}"
    if expected.tobytes() == actual.tobytes():
        return None
    if same_threads:
        return f"{_num_changed(expected, actual)} values of other bits"
    if compute_dtype == "float32":
        num_far = int((~within_one_unit(expected, actual)).sum())
        return f"{num_far} values more than a unit in the last place apart" if num_far else None
    figures = compare(actual, expected)
    if figures.is_within(_MIN_COSINE):
        return None
    return f"a cosine of {figures.cosine:.6f}, a relative error of {figures.relative_error:.4f}"


def within_one_unit(one: Vectors, other: Vectors) -> npt.NDArray[np.bool_]:
    """Which values of two tensors are at most one unit in the last place apart.

    They are if they are equal or neighbours in the storage dtype; or if their distance is at most the unit of a
    sixteenth of their vector's root mean square, since around zero a sum that cancels out may cross many tiny values.
    Of float32 the unit is float16's: float32 itself holds the noise of the computation.

    Args:
        one: [..., D], of a storage dtype.
        other: The same.
    """
    steps, bits = _STEPS_AND_BITS[str(one.dtype)]
    with np.errstate(invalid="ignore", over="ignore"):
        left, right = one.astype(np.float64), other.astype(np.float64)
        mean_squares = np.fmin((left**2).mean(-1, keepdims=True), (right**2).mean(-1, keepdims=True))
        exponents = np.floor(np.log2(np.maximum(_SMALL * np.sqrt(mean_squares), np.finfo(np.float64).tiny)))
        is_near = np.abs(left - right) <= 2.0 ** (exponents - (bits - 1))
    return (np.abs(_places(one) - _places(other)) <= steps) | is_near


def _places(values: Vectors) -> npt.NDArray[np.int64]:
    """Bits as integers: neighbours of one sign are one apart. Those around zero are near by any measure."""
    return values.view(np.dtype(f"u{values.dtype.itemsize}")).astype(np.int64)


def _num_changed(one: Vectors, other: Vectors) -> int:
    return int((_places(one) != _places(other)).sum())

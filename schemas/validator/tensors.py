"""The stored tensors of a chunk: their sizes, and whether their values can be real."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.planes import STORAGE_DTYPES, merge_planes, plane_names
from schemas.validator.codes import Code

# Bits of a value of each storage dtype, as integers: the exponent, all ones for NaN and Infinity, and the sign.
_EXPONENT = {"bfloat16": 0x7F80, "float16": 0x7C00, "float32": 0x7F800000, "uint8": 0}
_SIGN = {"bfloat16": 0x8000, "float16": 0x8000, "float32": 0x80000000, "uint8": 0}


TENSOR_CODES = {
    "size": Code.TENSOR_SIZE,
    "not-finite": Code.TENSOR_NOT_FINITE,
    "constant": Code.TENSOR_CONSTANT,
}


@dataclass(frozen=True)
class TensorColumn:
    """One tensor field in one chunk.

    Attributes:
        name: "hidden", "pooled", "eos" or "latents".
        planes: The column, a struct of planes.
        width: Elements of one vector: D or P; 1 for latents.
        vectors: int64 [rows], how many vectors each row should have; 0 for a null row.
        may_repeat: Whether a row's vectors may all be alike.
    """

    name: str
    planes: pa.StructArray
    width: int
    vectors: npt.NDArray[np.int64]
    may_repeat: bool = False


@dataclass(frozen=True)
class TensorProblem:
    """What is wrong with one row's tensor."""

    kind: str
    """"size", "not-finite" or "constant"."""
    row: int
    expected: str
    actual: str


def tensor_problems(column: TensorColumn, storage_dtype: str) -> Iterator[TensorProblem]:
    """Checks every row's tensor: first its size, and only if that is right its values."""
    expected = column.vectors * column.width
    lengths = [_lengths(column.planes.field(index)) for index in range(len(plane_names(storage_dtype)))]
    right = np.ones(len(expected), bool)
    for plane, actual in zip(plane_names(storage_dtype), lengths, strict=True):
        for row in np.flatnonzero((actual != expected) & right):
            what = (
                f"{column.vectors[row]} x {column.width} elements" if column.width > 1 else f"{expected[row]} elements"
            )
            yield TensorProblem("size", int(row), f"{column.name}.{plane}: {what}", f"{actual[row]} bytes")
        right &= actual == expected
    for row in np.flatnonzero(right & (expected > 0)):
        problem = _value_problem(_row_bits(column.planes, int(row), storage_dtype), column, storage_dtype)
        if problem is not None:
            yield TensorProblem(problem[0], int(row), f"{column.name}: {problem[1]}", problem[2])


def _lengths(plane: pa.Array) -> npt.NDArray[np.int64]:
    """Bytes of each row of a large_binary array, nulls as stored."""
    return np.diff(_offsets(plane, 0, len(plane))) if len(plane) else np.zeros(0, np.int64)


def _offsets(plane: pa.Array, row: int, num_rows: int) -> npt.NDArray[np.int64]:
    # Behind the last offset there may be any number of bytes.
    return np.frombuffer(plane.buffers()[1], np.int64, num_rows + 1, 8 * (plane.offset + row))


def _row_bits(planes: pa.StructArray, row: int, storage_dtype: str) -> npt.NDArray[np.unsignedinteger]:
    """One row's elements as unsigned integers."""
    parts = []
    for index in range(planes.type.num_fields):
        plane = planes.field(index)
        first, last = _offsets(plane, row, 1)
        parts.append(np.frombuffer(plane.buffers()[2], np.uint8)[first:last])
    merged = merge_planes(parts, storage_dtype)
    return merged.view(f"u{STORAGE_DTYPES[storage_dtype].itemsize}")


def _value_problem(
    bits: npt.NDArray[np.unsignedinteger], column: TensorColumn, storage_dtype: str
) -> tuple[str, str, str] | None:
    """What is wrong with one tensor's values, as (kind, expected, actual)."""
    exponent, sign = bits.dtype.type(_EXPONENT[storage_dtype]), bits.dtype.type(_SIGN[storage_dtype])
    not_finite = (bits & exponent) == exponent
    if exponent and not_finite.any():
        first = int(not_finite.argmax())
        where = f"the first in vector {first // column.width} at {first % column.width}"
        where = where if column.width > 1 else f"the first at {first}"
        return "not-finite", "finite values", f"{int(not_finite.sum())} values are NaN or Infinity, {where}"
    bits[bits == sign] = 0  # -0 is 0
    vectors = bits.reshape(-1, column.width)
    constant = (vectors == vectors[:, :1]).all(axis=1) if column.width > 1 else np.zeros(len(vectors), bool)
    if constant.any():
        first = int(constant.argmax())
        value = bits.view(STORAGE_DTYPES[storage_dtype])[first * column.width]
        what = f"{int(constant.sum())} of {len(vectors)} vectors repeat one value, the first is all {value}"
        return "constant", "vectors of differing values", what
    if len(vectors) > 1 and not column.may_repeat and (vectors[1:] == vectors[:1]).all():
        if column.width == 1:
            value = bits.view(STORAGE_DTYPES[storage_dtype])[0]
            return "constant", "values that differ", f"all {len(vectors)} values are {value}"
        return "constant", "tokens with vectors of their own", f"all {len(vectors)} tokens have the same vector"
    return None

"""Byte planes: the codec of every stored tensor.

The bytes of a tensor's elements are taken apart by significance: plane 0 holds every element's most significant byte
(for bfloat16 the sign and seven exponent bits), the last plane its least significant. Neighbouring exponents are alike,
mantissas are noise, so that ZSTD finds nearly all there is to find in plane 0 and copies the rest. Measured on real
transformer states, bf16: 0.68 of raw, where ZSTD over interleaved bytes gives 0.79.
"""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pyarrow as pa

STORAGE_DTYPES: dict[str, np.dtype] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "uint8": np.dtype(np.uint8),  # pixels: a single plane
}


Planes = Sequence[npt.NDArray[np.uint8]]
"""A tensor's planes, most significant first, each flat."""


def plane_names(storage_dtype: str) -> list[str]:
    """Field names of the planes, most significant first: `p0`, `p1` (, `p2`, `p3`)."""
    return [f"p{index}" for index in range(STORAGE_DTYPES[storage_dtype].itemsize)]


def planes_type(storage_dtype: str) -> pa.StructType:
    """Arrow type of a column of tensors. 64-bit offsets: 1,024 rows of 256x4096 bf16 overflow 32-bit ones."""
    return pa.struct([pa.field(name, pa.large_binary(), nullable=False) for name in plane_names(storage_dtype)])


def split_planes(values: npt.NDArray[np.generic]) -> list[npt.NDArray[np.uint8]]:
    """Takes an array's bytes apart.

    Args:
        values: Any shape, of a storage dtype, little-endian.

    Returns:
        One flat uint8 array a plane, most significant first, each of `values.size` bytes.
    """
    itemsize = values.dtype.itemsize
    if itemsize == 2:
        # Shift and narrow: 4x faster than two strided byte copies.
        bits = np.ascontiguousarray(values).reshape(-1).view(np.uint16)
        high = np.empty(bits.shape, np.uint8)
        np.right_shift(bits, 8, out=high, casting="unsafe")
        return [high, bits.astype(np.uint8)]
    interleaved = np.ascontiguousarray(values).reshape(-1).view(np.uint8).reshape(-1, itemsize)
    return [np.ascontiguousarray(interleaved[:, itemsize - 1 - index]) for index in range(itemsize)]


def merge_planes(planes: Sequence[npt.NDArray[np.uint8]], storage_dtype: str) -> npt.NDArray[np.generic]:
    """Puts an array together again: the inverse of `split_planes`.

    Args:
        planes: Flat uint8 arrays of one length, most significant first.

    Returns:
        A flat, writable array of `storage_dtype`.
    """
    dtype = STORAGE_DTYPES[storage_dtype]
    if dtype.itemsize == 2:
        # Widen, shift, or: 3x faster than two strided byte copies.
        merged = planes[0].astype(np.uint16)
        merged <<= 8
        merged |= planes[1]
        return merged.view(dtype)
    interleaved = np.empty((planes[0].size, dtype.itemsize), np.uint8)
    for index, plane in enumerate(planes):
        interleaved[:, dtype.itemsize - 1 - index] = plane
    return interleaved.reshape(-1).view(dtype)


def planes_column(
    values: npt.NDArray[np.generic] | Planes, row_elements: npt.NDArray[np.int64], dtype: str
) -> pa.StructArray:
    """A column of tensors, one a row.

    Args:
        values: All rows' elements one after the other: an array of the storage dtype, of any shape, or its planes.
        row_elements: [rows] number of elements of each row; 0 for a null row.
        dtype: The storage dtype's name.

    Returns:
        Struct array of `planes_type(dtype)`.
    """
    if isinstance(values, np.ndarray):
        assert values.dtype == STORAGE_DTYPES[dtype], (values.dtype, dtype)
        values = split_planes(values)
    assert len(values) == STORAGE_DTYPES[dtype].itemsize
    offsets = np.zeros(len(row_elements) + 1, np.int64)
    np.cumsum(row_elements, out=offsets[1:])
    assert all(plane.size == offsets[-1] for plane in values), (offsets[-1], [plane.size for plane in values])
    offset_buffer = pa.py_buffer(offsets)
    columns = [
        pa.Array.from_buffers(pa.large_binary(), len(row_elements), [None, offset_buffer, pa.py_buffer(plane)])
        for plane in values
    ]
    return pa.StructArray.from_arrays(columns, fields=list(planes_type(dtype)))


def row_planes(column: pa.StructArray, row: int) -> list[npt.NDArray[np.uint8]]:
    """One row's planes, as views into the column's buffers."""
    return [np.frombuffer(column.field(index)[row].as_buffer(), np.uint8) for index in range(column.type.num_fields)]

"""Byte planes: split and merged is the same bits, for every dtype, shape and value."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.planes import (
    STORAGE_DTYPES,
    merge_planes,
    plane_names,
    planes_column,
    planes_type,
    row_planes,
    split_planes,
)

DTYPES = pytest.mark.parametrize("dtype", list(STORAGE_DTYPES))


@DTYPES
@given(data=st.binary(max_size=400).map(lambda data: data[: len(data) // 4 * 4]))
def test_round_trip_of_any_bits(dtype: str, data: bytes) -> None:
    values = np.frombuffer(data, STORAGE_DTYPES[dtype])
    planes = split_planes(values)
    assert [plane.dtype for plane in planes] == [np.uint8] * len(plane_names(dtype))
    assert [plane.size for plane in planes] == [values.size] * len(planes)
    merged = merge_planes(planes, dtype)
    assert merged.dtype == STORAGE_DTYPES[dtype]
    assert merged.tobytes() == data
    assert merged.flags.writeable


@DTYPES
def test_views_and_many_dimensions(dtype: str) -> None:
    values = np.arange(2 * 6 * 5).reshape(2, 6, 5).astype(STORAGE_DTYPES[dtype])[:, ::2, 1:4]
    assert not values.flags.c_contiguous
    assert np.array_equal(merge_planes(split_planes(values), dtype).reshape(values.shape), values)


def test_the_first_plane_is_the_most_significant() -> None:
    """SPEC.md: for bfloat16 the sign and seven exponent bits."""
    values = np.array([1.0, -2.0], STORAGE_DTYPES["bfloat16"])  # 0x3f80, 0xc000
    assert [plane.tolist() for plane in split_planes(values)] == [[0x3F, 0xC0], [0x80, 0x00]]
    planes = split_planes(np.array([1.5], np.float32))  # 0x3fc00000
    assert [plane.tolist() for plane in planes] == [[0x3F], [0xC0], [0x00], [0x00]]


@DTYPES
@given(lengths=st.lists(st.integers(0, 20), max_size=8), seed=st.integers(0, 2**32 - 1))
def test_a_column_gives_each_row_its_own(dtype: str, lengths: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(sum(lengths)).astype(STORAGE_DTYPES[dtype])
    column = planes_column(values, np.array(lengths, np.int64), dtype)
    assert column.type == planes_type(dtype)
    column.validate(full=True)
    starts = np.cumsum([0, *lengths])
    for row, (start, length) in enumerate(zip(starts, lengths, strict=False)):
        merged = merge_planes(row_planes(column, row), dtype)
        assert merged.tobytes() == values[start : start + length].tobytes()


def test_offsets_have_64_bits() -> None:
    """1,024 rows of 256 x 4096 overflow 32-bit offsets."""
    assert all(field.type == pa.large_binary() for field in planes_type("bfloat16"))


def test_a_wrong_dtype_or_length_is_an_error() -> None:
    with pytest.raises(AssertionError):
        planes_column(np.zeros(4, np.float32), np.array([4]), "float16")
    with pytest.raises(AssertionError):
        planes_column(np.zeros(4, np.float16), np.array([3]), "float16")

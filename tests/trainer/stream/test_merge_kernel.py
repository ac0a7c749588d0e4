"""Byte planes into 16-bit numbers, in place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.planes import merge_planes, split_planes
from trainer.stream.merge_kernel import merge_two_planes

SENTINEL = 0xABCD


@given(
    num_rows=st.integers(0, 5),
    width=st.integers(1, 70),
    before=st.tuples(st.integers(0, 3), st.integers(0, 9)),
    after=st.tuples(st.integers(0, 3), st.integers(0, 9)),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_block_is_what_the_contract_merges_and_nothing_beside_it_changes(
    num_rows: int, width: int, before: tuple[int, int], after: tuple[int, int], seed: int
) -> None:
    values = np.random.default_rng(seed).integers(0, 2**16, (num_rows, width), np.uint16)
    high, low = split_planes(values)
    assert np.array_equal(merge_planes([high, low], "float16").view(np.uint16), values.reshape(-1))
    out = np.full((before[0] + num_rows + after[0], before[1] + width + after[1]), SENTINEL, np.uint16)
    expected = out.copy()
    expected[before[0] : before[0] + num_rows, before[1] : before[1] + width] = values
    merge_two_planes(high, low, out, before[0], before[1], num_rows, width)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize(("high_size", "low_size"), [(0, 12), (12, 0), (7, 12), (12, 7), (3, 2)])
def test_planes_that_are_too_short_are_not_read_beyond_their_end(high_size: int, low_size: int) -> None:
    out = np.full((3, 4), SENTINEL, np.uint16)
    memory = np.arange(1, 101, dtype=np.uint8)
    merge_two_planes(memory[:high_size], memory[50 : 50 + low_size], out, 0, 0, 3, 4)
    written = min(high_size, low_size)
    flat = out.reshape(-1)
    assert np.array_equal(flat[:written], [(1 + place) << 8 | (51 + place) for place in range(written)])
    assert (flat[written:] == SENTINEL).all()


def test_a_block_that_reaches_out_of_the_context_stops_at_its_edge() -> None:
    memory = np.full((4, 6), SENTINEL, np.uint16)
    planes = np.full(64, 1, np.uint8)
    merge_two_planes(planes, planes, memory[:2], 0, 3, 2, 30)
    assert (memory[2:] == SENTINEL).all()
    assert (memory[:2, :3] == SENTINEL).all()
    assert (memory[:2, 3:] == 0x0101).all()


def test_read_only_planes_are_taken_as_they_come_from_a_file() -> None:
    planes = [np.frombuffer(bytes([value] * 8), np.uint8) for value in (0x3F, 0x80)]
    out = np.zeros((2, 4), np.uint16)
    merge_two_planes(*planes, out, 0, 0, 2, 4)
    assert (out == 0x3F80).all()

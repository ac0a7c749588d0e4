"""Pieces of memory, one after the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from trainer.stream.copy_kernel import copy_pieces


def addressed(sources: list[npt.NDArray[np.uint8]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    found = [(source.ctypes.data, source.size) for source in sources]
    addresses, lengths = np.array(found, np.int64).reshape(-1, 2).T
    return addresses, lengths


PIECES = st.tuples(st.integers(0, 20), st.integers(0, 90))


@given(
    pieces=st.lists(PIECES, max_size=40),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_number_of_pieces(pieces: list[tuple[int, int]], seed: int) -> None:
    sources = [np.frombuffer(np.random.default_rng([seed, i]).bytes(110), np.uint8) for i in range(len(pieces))]
    starts, sizes = np.array(pieces, np.int64).reshape(-1, 2).T
    out = np.zeros(int(sizes.sum()) + 7, np.uint8)
    copy_pieces(*addressed(sources), starts, sizes, out)
    expected = b"".join(bytes(source[at : at + size]) for source, at, size in zip(sources, starts, sizes, strict=True))
    assert out.tobytes() == expected + bytes(7)


def test_nothing_is_read_or_written_beyond_an_end() -> None:
    memory = np.zeros(100, np.uint8)
    sources = [np.frombuffer(bytes([number] * 10), np.uint8) for number in (1, 2, 3)]
    copy_pieces(*addressed(sources), np.array([0, 8, 99]), np.array([4, 8, 4]), memory[:14])
    # The second source has two bytes of eight, the third is not that long; the last four lie beyond `out`'s end.
    assert memory.tolist() == [1] * 4 + [2] * 2 + [0] * 94


def test_numbers_below_zero_copy_nothing() -> None:
    memory, source = np.zeros(10, np.uint8), np.ones(10, np.uint8)
    copy_pieces(*addressed([source] * 2), np.array([-4, 0]), np.array([3, -3]), memory)
    assert memory.tolist() == [1] * 3 + [0] * 7

"""Permutations are whole, a matter of their purpose alone, and as likely as each other."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.stream import shuffle
from trainer.stream.shuffle import permutation, permutations


@given(st.integers(0, 300), st.integers(0, 2**63))
def test_everything_is_there_once(num: int, seed: int) -> None:
    assert sorted(permutation(num, seed, 1, 2).tolist()) == list(range(num))


def test_pieces_are_hashed_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = permutation(1000, 5, 1)
    monkeypatch.setattr(shuffle, "_HASHED_AT_A_TIME", 7)
    assert np.array_equal(permutation(1000, 5, 1), whole)


def test_all_orders_are_equally_likely() -> None:
    orders = Counter(tuple(permutation(3, seed, 0).tolist()) for seed in range(3000))
    assert len(orders) == 6
    assert all(400 < count < 600 for count in orders.values())


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.data())
def test_a_runs_permutation_does_not_depend_on_the_other_runs(sizes: list[int], data: st.DataObject) -> None:
    starts = np.cumsum([0, *sizes])[:-1]
    together = permutations(starts, np.array(sizes), 3, 1)
    assert [sorted(run.tolist()) for run in together] == [list(range(size)) for size in sizes]
    one = data.draw(st.integers(0, len(sizes) - 1))
    (alone,) = permutations(starts[one : one + 1], np.array(sizes[one : one + 1]), 3, 1)
    assert np.array_equal(alone, together[one])


def test_values_are_pinned() -> None:
    """Should NumPy or an edit change them, ORDER_VERSION must change too."""
    assert permutation(10, 2026, 1, 2).tolist() == [9, 6, 2, 0, 3, 4, 8, 7, 5, 1]
    runs = permutations(np.array([0, 5]), np.array([5, 4]), 2026, 1, 2)
    assert [run.tolist() for run in runs] == [[2, 0, 3, 4, 1], [1, 3, 2, 0]]

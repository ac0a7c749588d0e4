"""Batches: every caption once, within the budget, the same every time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import Batches
from pipeline.encoders.packed import SIZE_STEP, round_up_size

LENGTHS = st.lists(st.integers(1, 200), max_size=60)


def taken(lengths: list[int], budget: int, padding: str) -> list[list[int]]:
    batches = Batches(np.array(lengths, np.int64), padding=padding, max_tokens=200)
    out = []
    while len(rows := batches.take(budget)):
        out.append(rows.tolist())
    return out


@given(LENGTHS, st.integers(1, 2000), st.sampled_from(["max_length", "none"]))
def test_every_caption_once_within_the_budget(lengths: list[int], budget: int, padding: str) -> None:
    found = taken(lengths, budget, padding)
    assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
    sizes = [200] * len(lengths) if padding == "max_length" else lengths
    for number, rows in enumerate(found):
        tokens = sum(sizes[row] for row in rows)
        assert len(rows) == 1 or round_up_size(tokens, SIZE_STEP) <= budget
        if number + 1 < len(found):
            # Full: the next caption would not have fitted.
            assert round_up_size(tokens + sizes[found[number + 1][0]], SIZE_STEP) > min(budget // 64 * 64, budget)
    if padding == "none":
        assert [lengths[row] for rows in found for row in rows] == sorted(lengths, reverse=True)
    assert taken(lengths, budget, padding) == found


@given(LENGTHS.filter(len), st.integers(1, 2000), st.integers(1, 2000))
def test_a_batch_that_was_put_back_comes_again_smaller(lengths: list[int], first: int, second: int) -> None:
    batches = Batches(np.array(lengths, np.int64), padding="none", max_tokens=200)
    rows = batches.take(max(first, second))
    batches.put_back(rows)
    smaller = batches.take(min(first, second))
    assert rows[: len(smaller)].tolist() == smaller.tolist()


def test_sizes_are_few_and_filling_is_little() -> None:
    """Whatever the captions: kernels are compiled for each size, and stay in memory."""
    random = np.random.default_rng(0)
    sizes, real, computed = set(), 0, 0
    for _ in range(50):
        lengths = random.integers(4, 77, random.integers(100, 300))
        batches = Batches(lengths, padding="none", max_tokens=77)
        while len(rows := batches.take(1024)):
            tokens = int(lengths[rows].sum())
            sizes.add(round_up_size(tokens, SIZE_STEP))
            real, computed = real + tokens, computed + round_up_size(tokens, SIZE_STEP)
    assert max(sizes) == 1024
    assert len(sizes) <= 16
    assert real > 0.95 * computed

"""Batches: every caption once, within the budget, the same every time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import batch_by_tokens

LENGTHS = st.lists(st.integers(1, 20), max_size=60)


def make_ids(lengths: list[int]) -> list[np.ndarray]:
    return [np.full(length, index + 1, np.int32) for index, length in enumerate(lengths)]


@given(LENGTHS, st.integers(1, 200), st.sampled_from(["max_length", "none"]))
def test_every_caption_once_within_the_budget(lengths: list[int], budget: int, padding: str) -> None:
    ids = make_ids(lengths)
    seen: list[int] = []
    for batch in batch_by_tokens(ids, pad_id=0, max_tokens=20, padding=padding, budget_tokens=budget):
        rows, width = batch.token_ids.shape
        assert batch.num_padded_tokens == rows * width
        assert rows == 1 or rows * width <= budget
        assert len(batch.rows) <= rows < len(batch.rows) + 16
        longest = max(lengths[row] for row in batch.rows)
        assert width == 20 if padding == "max_length" else longest <= width < longest + 4
        assert width <= 20
        for position, row in enumerate([*batch.rows, *[batch.rows[-1]] * (rows - len(batch.rows))]):
            assert batch.num_tokens[position] == lengths[row]
            expected = [row + 1] * lengths[row] + [0] * (width - lengths[row])
            assert batch.token_ids[position].tolist() == expected
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(len(lengths)))


def test_shapes_are_few() -> None:
    """Whatever the captions: each shape is compiled, and stays in memory."""
    random = np.random.default_rng(0)
    shapes = set()
    for _ in range(200):
        ids = make_ids(random.integers(2, 21, random.integers(1, 100)).tolist())
        for batch in batch_by_tokens(ids, pad_id=0, max_tokens=20, padding="none", budget_tokens=400):
            shapes.add(tuple(batch.token_ids.shape))
    assert len(shapes) <= 25


def test_sorting_leaves_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(2, 21, 1000).tolist()
    padded = {
        padding: sum(
            batch.num_padded_tokens
            for batch in batch_by_tokens(make_ids(lengths), pad_id=0, max_tokens=20, padding=padding, budget_tokens=400)
        )
        for padding in ("none", "max_length")
    }
    assert padded["max_length"] == 20_000
    assert padded["none"] < 1.15 * sum(lengths)

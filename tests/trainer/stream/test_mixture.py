"""Several datasets as one stream: pooled exactly, by weight exactly, aligned with the ranks."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError
from trainer.stream.mixture import PATTERN_ROUNDS, GlobalOrder, Located, draw_field
from trainer.stream.order import OrderConfig

Rows = npt.NDArray[np.int64]

chunk_rows = st.lists(st.integers(1, 9), min_size=1, max_size=12).map(lambda rows: np.array(rows, np.int64))
several = st.lists(chunk_rows, min_size=1, max_size=3)
configs = st.builds(
    OrderConfig, seed=st.integers(0, 2**63), num_streams=st.integers(1, 9), block_chunks=st.integers(1, 4)
)


def every_sample(rows: Rows) -> Counter[tuple[int, int]]:
    return Counter((chunk, row) for chunk, count in enumerate(rows.tolist()) for row in range(count))


def of_dataset(found: Located, number: int) -> list[tuple[int, int]]:
    chosen = found.dataset == number
    return list(zip(found.chunk[chosen].tolist(), found.row[chosen].tolist(), strict=True))


def require_bounds(order: GlobalOrder, found: Located, datasets: list[Rows], epoch: int) -> None:
    """No row of a chunk comes after its last position."""
    for number, rows in enumerate(datasets):
        last = order.last_position(number, epoch, np.arange(len(rows)))
        for chunk in range(len(rows)):
            places = np.flatnonzero((found.dataset == number) & (found.epoch == epoch) & (found.chunk == chunk))
            assert not len(places) or places.max() <= last[chunk]


@given(several, configs)
def test_without_weights_an_epoch_has_every_sample_of_every_dataset_once(
    datasets: list[Rows], config: OrderConfig
) -> None:
    order = GlobalOrder(datasets, None, config)
    assert order.rows_per_epoch == sum(rows.sum() for rows in datasets)
    for epoch in range(3):
        found = order.locate(epoch * order.rows_per_epoch + np.arange(order.rows_per_epoch))
        assert set(found.epoch.tolist()) == {epoch}
        assert [Counter(of_dataset(found, number)) for number in range(len(datasets))] == [*map(every_sample, datasets)]
    require_bounds(order, order.locate(np.arange(2 * order.rows_per_epoch)), datasets, 1)


def test_pooled_datasets_are_mixed_throughout() -> None:
    order = GlobalOrder([np.full(300, 4, np.int64), np.full(100, 4, np.int64)], None, OrderConfig(1, 8))
    quarters = np.split(order.locate(np.arange(1600)).dataset, 4)
    assert all(abs(quarter.mean() - 0.25) < 0.1 for quarter in quarters)


@given(several, configs, st.data())
def test_by_weight_each_dataset_has_epochs_of_its_own(
    datasets: list[Rows], config: OrderConfig, data: st.DataObject
) -> None:
    weights = [data.draw(st.integers(1, 5)) for _ in datasets]
    order = GlobalOrder(datasets, weights, config)
    found = order.locate(np.arange(200))
    for number, rows in enumerate(datasets):
        own, total = of_dataset(found, number), int(rows.sum())
        assert found.epoch[found.dataset == number].tolist() == [index // total for index in range(len(own))]
        for start in range(0, len(own) - total + 1, total):
            assert Counter(own[start : start + total]) == every_sample(rows)
    require_bounds(order, found, datasets, 0)
    require_bounds(order, found, datasets, 1)
    # And the same from anywhere, however it is asked.
    asked = np.array(data.draw(st.lists(st.integers(0, 199), max_size=9)), np.int64)
    again = order.locate(asked)
    assert all(np.array_equal(some[asked], other) for some, other in zip(found, again, strict=True))


@pytest.mark.parametrize(
    "weights", [(0.7, 0.3), (1, 0), (5, 3, 2), (0.001, 0.999), (2, 4), (0.301, 0.699), (0.1, 0.2, 0.3)]
)
def test_weights_are_exact_at_once_and_even_throughout(weights: tuple[float, ...]) -> None:
    num_streams = 4
    order = GlobalOrder([np.array([40_000], np.int64)] * len(weights), weights, OrderConfig(0, num_streams))
    dataset = order.locate(np.arange(8000 * num_streams)).dataset
    # Whole rounds, so that streams stay with the ranks that read them.
    turns = dataset.reshape(-1, num_streams)
    assert (turns == turns[:, :1]).all()
    for number, weight in enumerate(weights):
        so_far = np.cumsum(turns[:, 0] == number)
        wanted = weight / sum(weights) * np.arange(1, 8001)
        assert so_far[999::1000].tolist() == pytest.approx(wanted[999::1000].round().tolist(), abs=1)
        assert so_far[5999] == round(wanted[5999])
        assert np.abs(so_far - wanted).max() < len(weights)


def test_weights_are_taken_as_they_are_written() -> None:
    """0.7 is 7 / 10, though no binary number is."""
    datasets = [np.array([50], np.int64)] * 2
    assert len(GlobalOrder(datasets, (0.7, 0.3), OrderConfig(0))._pattern) == 10
    assert len(GlobalOrder(datasets, (2, 4), OrderConfig(0))._pattern) == 3


def test_weights_of_no_simple_ratio_are_exact_to_the_pattern() -> None:
    weights = (math.pi, math.e, 1e-9)
    order = GlobalOrder([np.array([70_000], np.int64)] * 3, weights, OrderConfig(0, 1))
    found = np.bincount(order.locate(np.arange(PATTERN_ROUNDS)).dataset)
    assert found.sum() == PATTERN_ROUNDS
    assert found[2] == 1
    assert np.abs(found / PATTERN_ROUNDS - np.array(weights) / sum(weights)).max() < 1.01 / PATTERN_ROUNDS


@given(several, st.integers(0, 99), st.sampled_from([2, 3]), st.booleans())
def test_no_chunk_is_read_by_two_ranks_while_all_streams_last(
    datasets: list[Rows], seed: int, world_size: int, pooled: bool
) -> None:
    # Chunks of one length, as many in each stream: there is no tail.
    datasets = [np.full(len(rows) * 6, 3, np.int64) for rows in datasets]
    order = GlobalOrder(datasets, None if pooled else [1.0] * len(datasets), OrderConfig(seed, 6))
    found = order.locate(np.arange(2 * order.rows_per_epoch))
    names = list(zip(found.dataset.tolist(), found.epoch.tolist(), found.chunk.tolist(), strict=True))
    of_rank = [set(names[rank::world_size]) for rank in range(world_size)]
    assert sum(map(len, of_rank)) == len(set(names))


def test_many_epochs_of_a_small_dataset_do_not_drop_a_large_ones_plan() -> None:
    order = GlobalOrder([np.full(1000, 9, np.int64), np.array([3], np.int64)], (1, 1), OrderConfig(0, 4))
    order.locate(np.arange(8))
    kept = order._epochs[0][0]
    found = order.locate(np.arange(400))
    assert found.epoch.max() > 50
    assert order._epochs[0][0] is kept
    assert [len(epochs) for epochs in order._epochs] == [1, 2]


@pytest.mark.parametrize("weights", [(1,), (1, 1, 1), (0, 0), (-1, 2), (math.nan, 1), (math.inf, 1)])
def test_weights_that_mean_nothing_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="dataset-weights"):
        GlobalOrder([np.array([1], np.int64)] * 2, weights, OrderConfig(0))


def test_captions_are_drawn_by_weight_for_each_chunk_and_epoch() -> None:
    chunks = np.arange(20_000)
    drawn = draw_field(3, 0, 0, chunks, (1, 2, 1))
    assert np.abs(np.bincount(drawn) / len(chunks) - [0.25, 0.5, 0.25]).max() < 0.02
    assert np.array_equal(draw_field(3, 0, 0, chunks[500:600], (1, 2, 1)), drawn[500:600])
    # Independent draws agree as often as two of these weights do.
    for other in (draw_field(4, 0, 0, chunks, (1, 2, 1)), draw_field(3, 1, 0, chunks, (1, 2, 1))):
        assert abs((other == drawn).mean() - 0.375) < 0.02
    assert abs((draw_field(3, 0, 1, chunks, (1, 2, 1)) == drawn).mean() - 0.375) < 0.02
    assert set(draw_field(3, 0, 0, chunks, (0, 1)).tolist()) == {1}
    assert set(draw_field(3, 0, 0, chunks, (1, 0)).tolist()) == {0}

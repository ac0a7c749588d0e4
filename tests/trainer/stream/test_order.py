"""The order as mathematics: exactly once, one order for all ranks and batches, exact however often it is resumed."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from trainer.stream.mixture import GlobalOrder
from trainer.stream.order import EpochOrder, OrderConfig
from trainer.stream.plan import PlannedBatch, Share, planned_batches
from trainer.stream.window import Tail, window

Sample = tuple[int, int]

chunk_rows = st.lists(st.integers(1, 9), min_size=1, max_size=30).map(lambda rows: np.array(rows, np.int64))
configs = st.builds(
    OrderConfig,
    seed=st.integers(0, 2**63),
    num_streams=st.integers(1, 9),
    block_chunks=st.integers(1, 4),
    shuffle=st.booleans(),
)
tails = st.sampled_from(["pad", "drop"])


def every_sample(rows: npt.NDArray[np.int64]) -> Counter[Sample]:
    return Counter((chunk, row) for chunk, count in enumerate(rows.tolist()) for row in range(count))


def located(order: EpochOrder) -> list[Sample]:
    chunks, rows = order.locate(np.arange(order.num_rows))
    return list(zip(chunks.tolist(), rows.tolist(), strict=True))


@given(chunk_rows, configs, st.integers(0, 3), st.integers(0, 3))
def test_every_sample_exactly_once(rows: npt.NDArray[np.int64], config: OrderConfig, dataset: int, epoch: int) -> None:
    assert Counter(located(EpochOrder(rows, config, dataset, epoch))) == every_sample(rows)


@given(chunk_rows, configs, st.data())
def test_where_something_stands_does_not_depend_on_who_asks_for_what(
    rows: npt.NDArray[np.int64], config: OrderConfig, data: st.DataObject
) -> None:
    whole = located(EpochOrder(rows, config, 0, 0))
    asked = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=20)), np.int64)
    order = EpochOrder(rows, config, 0, 0)
    for some in np.array_split(asked, data.draw(st.integers(1, 5))):
        chunks, found = order.locate(some)
        assert list(zip(chunks.tolist(), found.tolist(), strict=True)) == [whole[position] for position in some]


@given(chunk_rows, configs)
def test_last_position_bounds_a_chunk_by_its_block(rows: npt.NDArray[np.int64], config: OrderConfig) -> None:
    order = EpochOrder(rows, config, 0, 0)
    chunks = np.array([chunk for chunk, _ in located(order)])
    last = order.last_position(np.arange(len(rows)))
    for chunk in range(len(rows)):
        assert np.flatnonzero(chunks == chunk).max() <= last[chunk] < order.num_rows
    if config.block_chunks == 1:
        assert [np.flatnonzero(chunks == chunk).max() for chunk in range(len(rows))] == last.tolist()


@given(chunk_rows, configs, st.sampled_from([1, 2, 3]))
def test_a_rank_reads_whole_streams_while_all_of_them_last(
    rows: npt.NDArray[np.int64], config: OrderConfig, world_size: int
) -> None:
    num_streams = min(config.num_streams * world_size, len(rows) // world_size * world_size)
    if num_streams == 0:
        return
    order = EpochOrder(rows, OrderConfig(config.seed, num_streams, config.block_chunks, config.shuffle), 0, 0)
    shortest = min(np.diff(order._row_starts[order._first_slots]).tolist())
    chunks, _ = order.locate(np.arange(shortest * num_streams))
    of_rank = [set(chunks[rank::world_size].tolist()) for rank in range(world_size)]
    assert sum(map(len, of_rank)) == len(set().union(*of_rank))


def test_epochs_datasets_and_seeds_have_orders_of_their_own() -> None:
    rows = np.full(40, 7, np.int64)
    orders = [
        located(EpochOrder(rows, OrderConfig(seed, 5), dataset, epoch))
        for seed, dataset, epoch in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert all(a != b for index, a in enumerate(orders) for b in orders[index + 1 :])
    # The chunks of their own too, not only the rows within them: what comes first of each stream.
    first = [tuple(chunk for chunk, _ in order[:5]) for order in orders]
    assert len(set(first)) == len(first)
    # Shuffled as a whole, not merely rotated: neighbours of one epoch are strangers in another.
    pairs = [set(itertools.pairwise(order)) for order in orders]
    assert len(pairs[0] & pairs[3]) < 10


def test_rows_are_shuffled_within_blocks_only() -> None:
    rows = np.full(12, 8, np.int64)
    order = EpochOrder(rows, OrderConfig(3, num_streams=1, block_chunks=3), 0, 0)
    found = located(order)
    blocks = [found[start : start + 24] for start in range(0, 96, 24)]
    assert all(len({chunk for chunk, _ in block}) == 3 for block in blocks)
    assert all([chunk for chunk, _ in block] != sorted(chunk for chunk, _ in block) for block in blocks)


def test_unshuffled_takes_chunks_and_rows_as_they_lie() -> None:
    order = EpochOrder(np.array([2, 3, 1], np.int64), OrderConfig(9, num_streams=1, shuffle=False), 0, 4)
    assert located(order) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0)]


def test_the_order_never_changes_unnoticed() -> None:
    """A literal: should NumPy or an edit change it, ORDER_VERSION must change too."""
    order = EpochOrder(np.array([3, 2, 4, 1, 3], np.int64), OrderConfig(7, num_streams=2, block_chunks=2), 1, 2)
    chunks, rows = order.locate(np.arange(13))
    assert chunks.tolist() == [1, 2, 3, 2, 1, 0, 4, 2, 4, 0, 4, 2, 0]
    assert rows.tolist() == [1, 1, 0, 2, 0, 2, 1, 0, 0, 1, 2, 3, 0]


def batches(
    order: GlobalOrder, share: Share, position: int, stop: int | None, number: int | None = None
) -> list[PlannedBatch]:
    found = []
    for batch in planned_batches(order, share, position, stop):
        if number is not None and len(found) == number:
            break
        found.append(batch)
    return found


def consumed(found: list[PlannedBatch]) -> list[tuple[int, tuple[int, ...]]]:
    """(position, sample) of all rows that are not padding, by position."""
    rows = [
        (int(position), (*chunk, int(row)))
        for batch in found
        for position, chunk, row in zip(batch.positions, batch.chunks, batch.rows, strict=True)
        if chunk is not None
    ]
    return sorted(rows)


@given(chunk_rows, configs, tails, st.data())
def test_equal_steps_one_global_order_and_exact_resumes(
    rows: npt.NDArray[np.int64], config: OrderConfig, tail: Tail, data: st.DataObject
) -> None:
    order = GlobalOrder([rows], None, config)
    total = int(rows.sum())
    position, found = 0, []
    # Two resumes and more, each on other ranks and in other batches, wherever the run stops.
    for leg in range(data.draw(st.integers(1, 4)) + 1):
        last = leg == 4
        world_size, batch_size = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 7))
        steps = data.draw(st.integers(0, 6))
        of_ranks = [
            batches(order, Share(batch_size, rank, world_size, "pad"), position, total, None if last else steps)
            for rank in range(world_size)
        ]
        assert len({len(own) for own in of_ranks}) == 1
        for step in zip(*of_ranks, strict=True):
            assert len({(batch.position, batch.next_position) for batch in step}) == 1
            assert all(len(batch.chunks) == len(batch.rows) == len(batch.positions) == batch_size for batch in step)
            real = sum(chunk is not None for batch in step for chunk in batch.chunks)
            assert real == min(batch_size * world_size, total - step[0].position)
        for rank, own in enumerate(of_ranks):
            # So a rank keeps to its streams, wherever it resumes.
            taken = np.concatenate([batch.positions for batch in own] or [np.empty(0, np.int64)])
            assert (taken[taken >= 0] % world_size == rank).all()
        found += [batch for own in of_ranks for batch in own]
        position = of_ranks[0][-1].next_position if of_ranks[0] else position
    found += batches(order, Share(3, 0, 1, "pad"), position, total)
    whole = batches(order, Share(1, 0, 1, "pad"), 0, total)
    assert consumed(found) == consumed(whole)
    assert Counter(sample[2:] for _, sample in consumed(found)) == every_sample(rows)


@given(st.integers(0, 500), st.integers(1, 40), st.integers(1, 60), tails)
def test_windows_never_straddle_epochs(position: int, size: int, epoch: int, tail: Tail) -> None:
    found = window(position, size, epoch, tail)
    assert found.start == position
    assert found.next_position > position
    assert (found.next_position - 1) // epoch == position // epoch
    left = epoch - position % epoch
    assert found.num_real == (size if left >= size else left if tail == "pad" else 0)


def test_a_dropped_tail_is_the_only_thing_left_out() -> None:
    order = GlobalOrder([np.array([5, 4, 3], np.int64)], None, OrderConfig(0, 2))
    kept = batches(order, Share(5, 0, 1, "drop"), 0, 24)
    padded = batches(order, Share(5, 0, 1, "pad"), 0, 24)
    assert [batch.position for batch in kept] == [0, 5, 12, 17]
    assert [batch.position for batch in padded] == [0, 5, 10, 12, 17, 22]
    assert consumed(kept) == [row for row in consumed(padded) if row[0] not in (10, 11, 22, 23)]

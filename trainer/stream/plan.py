"""Which rows of which chunks make each batch of a rank: the order, cut into batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.stream.mixture import GlobalOrder
from trainer.stream.window import Tail, Window, window

_BATCHES_AT_A_TIME = 64


class ChunkId(NamedTuple):
    """A chunk as one epoch reads it; another epoch may use another of its captions."""

    dataset: int
    epoch: int
    chunk: int


@dataclass(frozen=True)
class PlannedBatch:
    """A rank's rows of one global batch.

    Attributes:
        position: Where the global batch begins.
        next_position: The stream's state after it.
        positions: int64 [B]; -1 for rows that pad a tail.
        chunks: [B]; None for rows that pad a tail.
        rows: int64 [B], within the chunk.
    """

    position: int
    next_position: int
    positions: npt.NDArray[np.int64]
    chunks: list[ChunkId | None]
    rows: npt.NDArray[np.int64]

    @property
    def datasets(self) -> npt.NDArray[np.int32]:
        """int32 [B], which dataset each row is of; -1 for rows that pad a tail."""
        return np.array([-1 if chunk is None else chunk.dataset for chunk in self.chunks], np.int32)


@dataclass(frozen=True)
class Share:
    """What one rank reads.

    Attributes:
        batch_size: Rows of a batch on each rank.
        rank: This rank.
        world_size: Ranks.
        tail: What becomes of an epoch's last rows.
    """

    batch_size: int
    rank: int
    world_size: int
    tail: Tail


def planned_batches(order: GlobalOrder, share: Share, position: int, stop: int | None) -> Iterator[PlannedBatch]:
    """A rank's batches from a position on.

    Args:
        order: Of all samples.
        share: Of the rank.
        position: State to begin with.
        stop: State at which to end; None goes on for ever.
    """
    global_size = share.batch_size * share.world_size
    while True:
        windows: list[Window] = []
        while len(windows) < _BATCHES_AT_A_TIME and (stop is None or position < stop):
            found = window(position, global_size, order.rows_per_epoch, share.tail)
            position = found.next_position
            if found.num_real:
                windows.append(found)
        if not windows:
            return
        own = [_own_positions(found.start, found.num_real, share) for found in windows]
        located = order.locate(np.concatenate(own))
        ends = np.cumsum([len(positions) for positions in own])
        chunks = [ChunkId(*names) for names in zip(*map(np.ndarray.tolist, located[:3]), strict=True)]
        for found, positions, end in zip(windows, own, ends.tolist(), strict=True):
            chosen = slice(end - len(positions), end)
            num_padding = share.batch_size - len(positions)
            yield PlannedBatch(
                position=found.start,
                next_position=found.next_position,
                positions=np.pad(positions, (0, num_padding), constant_values=-1),
                chunks=[*chunks[chosen], *[None] * num_padding],
                rows=np.pad(located.row[chosen], (0, num_padding)),
            )


def _own_positions(start: int, num_real: int, share: Share) -> npt.NDArray[np.int64]:
    first = start + (share.rank - start) % share.world_size
    return np.arange(first, start + num_real, share.world_size, dtype=np.int64)

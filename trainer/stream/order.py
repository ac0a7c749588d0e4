"""The order of one dataset's samples in one epoch: a pure function of the seed, the dataset and the epoch.

An epoch is made in four steps. (1) The chunks are permuted. (2) They are dealt in turn, like cards, to a fixed number
of canonical streams. (3) Within a stream, the rows of every `block_chunks` consecutive chunks are shuffled together.
(4) The epoch takes one row of each stream in turn; a stream that has ended is left out, so that every row comes exactly
once whatever the lengths.

    stream 0   b3 b1 b2 | h1 h3 h2 ...          epoch   b3 e2 a1  b1 e1 a3  b2 e3 a2  h1 ...
    stream 1   e2 e1 e3 | c2 c1 c3 ...          position 0  1  2   3  4  5   6  7  8   9
    stream 2   a1 a3 a2 | g3 g2 g1 ...

While all C streams last, position q is a row of stream q mod C. A rank r of W takes the positions p with p mod W = r,
which are whole streams if W divides C: no chunk is read by two ranks. The order itself knows nothing of ranks or
batches, so a run goes on exactly when their number changes.

Nothing is kept for an epoch but its permutation and the rows before each of its chunks: a position is located by
searching these. Rows are shuffled block by block, when a position in the block is asked for.

All randomness is a hash of the seed, the dataset, the epoch and a number (`shuffle`), so the order is the same wherever
and in whatever pieces it is computed. It is versioned: a checkpoint of another `ORDER_VERSION` is not resumed from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.stream.shuffle import permutation, permutations

ORDER_VERSION = 1
"""Part of every stream's fingerprint: a change of the order must never go unnoticed by a resume."""

Indices = npt.NDArray[np.int64]

_CHUNKS, _ROWS = 0, 1  # what a permutation is for


@dataclass(frozen=True)
class OrderConfig:
    """All that decides an order besides the dataset.

    Attributes:
        seed: Of the run.
        num_streams: Canonical streams.
        block_chunks: Chunks of a stream whose rows are shuffled together.
        shuffle: False takes chunks and rows as they lie; streams are dealt all the same.
    """

    seed: int
    num_streams: int = 64
    block_chunks: int = 1
    shuffle: bool = True


class EpochOrder:
    """The order of one epoch.

    Args:
        rows_per_chunk: int64 [chunks], none of them 0.
        config: As above.
        dataset: Number of the dataset, so that two of them are not shuffled alike.
        epoch: Number of the epoch.
    """

    def __init__(self, rows_per_chunk: Indices, config: OrderConfig, dataset: int, epoch: int) -> None:
        num_chunks = len(rows_per_chunk)
        self.num_rows = int(rows_per_chunk.sum())
        self._config = config
        self._name = (dataset, epoch)
        if config.shuffle:
            dealt = permutation(num_chunks, config.seed, _CHUNKS, dataset, epoch)
        else:
            dealt = np.arange(num_chunks, dtype=np.int32)
        num_streams = max(1, min(config.num_streams, num_chunks))
        streams = [dealt[stream::num_streams] for stream in range(num_streams)]
        self._chunks = np.concatenate(streams) if num_chunks else dealt
        """int32 [chunks], stream after stream; an index into it is a slot."""
        self._slots: npt.NDArray[np.int32] | None = None
        self._first_slots = np.cumsum([0, *map(len, streams)])
        self._row_starts = np.zeros(num_chunks + 1, np.int64)
        np.cumsum(rows_per_chunk[self._chunks], out=self._row_starts[1:])
        """int64 [chunks + 1], rows before each slot."""
        self._segments = _segments(np.diff(self._row_starts[self._first_slots]))
        self._shuffled: dict[int, npt.NDArray[np.int32]] = {}
        """Permutations of the blocks that were asked for last, by first slot: the next positions are in them too."""

    def locate(self, positions: Indices) -> tuple[Indices, Indices]:
        """What stands at some positions.

        Args:
            positions: int64 [n], each from 0 to `num_rows` - 1.

        Returns:
            chunk int64 [n] and row within it int64 [n].
        """
        streams, rounds = self._segments.streams(positions)
        rows = self._row_starts[self._first_slots[streams]] + rounds
        if self._config.shuffle:
            rows = self._unshuffle(streams, rows)
        slots = np.searchsorted(self._row_starts, rows, side="right") - 1
        return self._chunks[slots].astype(np.int64), rows - self._row_starts[slots]

    def last_position(self, chunks: Indices) -> Indices:
        """int64 [n], the position of the last row of each chunk's block: none of the chunk's comes after it."""
        if self._slots is None:
            self._slots = np.empty_like(self._chunks)
            self._slots[self._chunks] = np.arange(len(self._chunks), dtype=np.int32)
        slots = self._slots[chunks].astype(np.int64)
        streams = np.searchsorted(self._first_slots, slots, side="right") - 1
        _, stops = self._block(streams, slots)
        rounds = self._row_starts[stops] - 1 - self._row_starts[self._first_slots[streams]]
        return self._segments.positions(streams, rounds)

    def _block(self, streams: Indices, slots: Indices) -> tuple[Indices, Indices]:
        """First slot of the blocks that some slots are in, and the one after their last."""
        first, size = self._first_slots[streams], self._config.block_chunks
        starts = slots - (slots - first) % size
        return starts, np.minimum(starts + size, self._first_slots[streams + 1])

    def _unshuffle(self, streams: Indices, rows: Indices) -> Indices:
        """From rows as they are handed out to rows as they lie."""
        if not len(rows):
            return rows
        slots = np.searchsorted(self._row_starts, rows, side="right") - 1
        starts, stops = self._block(streams, slots)
        blocks, chosen, block_of = np.unique(starts, return_index=True, return_inverse=True)
        shuffled = self._shuffled_rows(blocks, stops[chosen])
        first = self._row_starts[starts]
        places = np.cumsum([0, *map(len, shuffled)])[block_of] + rows - first
        return first + np.concatenate(shuffled)[places]

    def _shuffled_rows(self, starts: Indices, stops: Indices) -> list[npt.NDArray[np.int32]]:
        """The permutations of the rows of some blocks, given by their first slots and those after their last."""
        new = np.array([start not in self._shuffled for start in starts.tolist()], bool)
        found = {start: self._shuffled[start] for start in starts[~new].tolist()}
        if new.any():
            first = self._row_starts[starts[new]]
            sizes = self._row_starts[stops[new]] - first
            drawn = permutations(first, sizes, self._config.seed, _ROWS, *self._name)
            found.update(zip(starts[new].tolist(), drawn, strict=True))
        self._shuffled = found
        return [found[start] for start in starts.tolist()]


@dataclass(frozen=True)
class _Segments:
    """Stretches of an epoch in which the same streams take turns; one stretch if all streams are of one length.

    Attributes:
        starts: int64 [segments], first position.
        rounds: int64 [segments + 1], first round; the last entry is the number of rounds.
        active: For each segment, int64 [n], the streams that last through it, in order.
    """

    starts: Indices
    rounds: Indices
    active: tuple[Indices, ...]

    def streams(self, positions: Indices) -> tuple[Indices, Indices]:
        """Stream and round of some positions."""
        segments = np.searchsorted(self.starts, positions, side="right") - 1
        streams, rounds = np.empty_like(positions), np.empty_like(positions)
        for segment in np.unique(segments).tolist():
            chosen = segments == segment
            turns, places = np.divmod(positions[chosen] - self.starts[segment], len(self.active[segment]))
            streams[chosen] = self.active[segment][places]
            rounds[chosen] = self.rounds[segment] + turns
        return streams, rounds

    def positions(self, streams: Indices, rounds: Indices) -> Indices:
        """The inverse."""
        segments = np.searchsorted(self.rounds, rounds, side="right") - 1
        positions = np.empty_like(rounds)
        for segment in np.unique(segments).tolist():
            chosen, active = segments == segment, self.active[segment]
            turns = rounds[chosen] - self.rounds[segment]
            places = np.searchsorted(active, streams[chosen])
            positions[chosen] = self.starts[segment] + turns * len(active) + places
        return positions


def _segments(stream_rows: Indices) -> _Segments:
    ends = np.unique(stream_rows)
    rounds = np.concatenate([[0], ends])
    active = tuple(np.flatnonzero(stream_rows >= end) for end in ends)
    sizes = np.diff(rounds) * np.array([len(streams) for streams in active], np.int64)
    return _Segments(np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64), rounds, active)

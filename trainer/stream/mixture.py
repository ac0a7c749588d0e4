"""Several datasets as one stream, by weight; and which caption a chunk uses.

The stream's positions come in rounds of `num_streams`. Each round belongs to one dataset, by a fixed pattern in which
every dataset's rounds are spread evenly, so that the streams stay aligned with the ranks that read them. A dataset goes
through its own epochs at its own pace: every one of its samples once, then all of them again in another order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.counter_hash import uniform
from trainer.stream.order import EpochOrder, Indices, OrderConfig

PATTERN_ROUNDS = 4096
"""Rounds after which the pattern begins anew: weights are exact to 1 / 4096."""

_MAX_EPOCHS = 4


class Located(NamedTuple):
    """What stands at n positions: dataset, the dataset's epoch, chunk and row in the chunk; int64 [n] each."""

    dataset: Indices
    epoch: Indices
    chunk: Indices
    row: Indices


class GlobalOrder:
    """The order of all samples of all datasets, for ever.

    Args:
        rows_per_chunk: For each dataset, int64 [chunks].
        weights: For each dataset, its share of the samples. Default: its rows.
        config: Of the order.
    """

    def __init__(self, rows_per_chunk: Sequence[Indices], weights: Sequence[float] | None, config: OrderConfig) -> None:
        self._rows_per_chunk = rows_per_chunk
        self._num_rows = np.array([rows.sum() for rows in rows_per_chunk], np.int64)
        self._config = config
        self._pattern = _pattern(self._num_rows if weights is None else np.asarray(weights, np.float64))
        taken = self._pattern[None, :] == np.arange(len(rows_per_chunk))[:, None]
        self._rounds_before = np.cumsum(taken, axis=1) - taken
        """int64 [datasets, pattern], rounds of each dataset before each of the pattern's."""
        self._rounds_of = [np.flatnonzero(row) for row in taken]
        self._epochs: OrderedDict[tuple[int, int], EpochOrder] = OrderedDict()
        self.rows_per_epoch = int(self._num_rows.sum())
        """Length of an epoch: as many samples as there are in all datasets."""

    def locate(self, positions: Indices) -> Located:
        """What stands at some positions, int64 [n], each 0 or more."""
        turns, places = np.divmod(positions, self._config.num_streams)
        cycles, rounds = np.divmod(turns, len(self._pattern))
        dataset = self._pattern[rounds]
        own_rounds = cycles * self._rounds_in_pattern[dataset] + self._rounds_before[dataset, rounds]
        own = own_rounds * self._config.num_streams + places
        epoch, inside = np.divmod(own, self._num_rows[dataset])
        chunk, row = np.empty_like(positions), np.empty_like(positions)
        for number, of_epoch in {*zip(dataset.tolist(), epoch.tolist(), strict=True)}:
            chosen = (dataset == number) & (epoch == of_epoch)
            chunk[chosen], row[chosen] = self._epoch(number, of_epoch).locate(inside[chosen])
        return Located(dataset, epoch, chunk, row)

    def last_position(self, dataset: int, epoch: int, chunks: Indices) -> Indices:
        """int64 [n], positions after which no row of these chunks of a dataset's epoch comes."""
        own = epoch * self._num_rows[dataset] + self._epoch(dataset, epoch).last_position(chunks)
        own_rounds, places = np.divmod(own, self._config.num_streams)
        cycles, rounds = np.divmod(own_rounds, self._rounds_in_pattern[dataset])
        turns = cycles * len(self._pattern) + self._rounds_of[dataset][rounds]
        return turns * self._config.num_streams + places

    @property
    def _rounds_in_pattern(self) -> Indices:
        return np.array([len(rounds) for rounds in self._rounds_of], np.int64)

    def _epoch(self, dataset: int, epoch: int) -> EpochOrder:
        name = (dataset, epoch)
        found = self._epochs.get(name)
        if found is None:
            found = EpochOrder(self._rows_per_chunk[dataset], self._config, dataset, epoch)
            self._epochs[name] = found
            # Of each dataset the epoch that ends and the one that begins.
            while len(self._epochs) > _MAX_EPOCHS * len(self._num_rows):
                self._epochs.popitem(last=False)
        self._epochs.move_to_end(name)
        return found


def draw_field(seed: int, dataset: int, epoch: int, chunks: Indices, weights: Sequence[float]) -> Indices:
    """Draws the caption group that each chunk uses in an epoch.

    Args:
        seed: The run's.
        dataset: Number of the dataset.
        epoch: The dataset's epoch.
        chunks: int64 [n].
        weights: One a group; not all 0.

    Returns:
        int64 [n], indices into `weights`.
    """
    bounds = np.cumsum(np.asarray(weights, np.float64) / np.sum(weights))[:-1]
    return np.searchsorted(bounds, uniform(seed, -1, dataset, epoch, chunks), side="right").astype(np.int64)


def _pattern(weights: npt.NDArray[np.float64] | Indices) -> Indices:
    if len(weights) == 1:
        return np.zeros(1, np.int64)
    exact = np.asarray(weights, np.float64) / np.sum(weights) * PATTERN_ROUNDS
    counts = np.maximum(np.floor(exact).astype(np.int64), (exact > 0).astype(np.int64))
    by_remainder = np.argsort(-(exact - counts), kind="stable")
    for dataset in by_remainder[: max(0, PATTERN_ROUNDS - int(counts.sum()))]:
        counts[dataset] += 1
    places = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    datasets = np.repeat(np.arange(len(counts)), counts)
    return datasets[np.argsort(places, kind="stable")].astype(np.int64)

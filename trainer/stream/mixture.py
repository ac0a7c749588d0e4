"""Several datasets as one stream, by weight; and which caption a chunk uses.

Without weights the datasets are pooled: their chunks are shuffled as if they were of one dataset, and an epoch has
every sample of every dataset exactly once.

With weights the stream's positions come in rounds of `num_streams`. Each round belongs to one dataset, by a fixed
pattern in which every dataset's rounds are spread evenly, so that the streams stay aligned with the ranks that read
them. A dataset goes through its own epochs at its own pace: every one of its samples once, then all of them again in
another order.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from schemas.errors import ConfigError
from trainer.counter_hash import uniform
from trainer.stream.order import EpochOrder, Indices, OrderConfig

PATTERN_ROUNDS = 2**16
"""Most rounds before the pattern begins anew. Weights whose ratios need no more, as 0.7 and 0.3 or 5, 3 and 2, are
exact; others are exact to 1 / 65536."""

_KEPT_EPOCHS = 2  # of each dataset the one that ends and the one that begins


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
        weights: For each dataset, its share of the samples. None pools them.
        config: Of the order.

    Raises:
        ConfigError: The weights are not one for each dataset, none of them negative, some above 0.
    """

    def __init__(self, rows_per_chunk: Sequence[Indices], weights: Sequence[float] | None, config: OrderConfig) -> None:
        if weights is not None:
            _require_weights(weights, len(rows_per_chunk))
        self._pooled = weights is None
        # int64 [datasets + 1]: chunks before each dataset's, in the pool.
        self._first_chunks = np.cumsum([0, *map(len, rows_per_chunk)])
        self._pools = [np.concatenate(rows_per_chunk)] if weights is None else list(rows_per_chunk)
        self._num_rows = np.array([rows.sum() for rows in self._pools], np.int64)
        self._config = config
        self._pattern = _pattern((1.0,) if weights is None else weights)
        taken = self._pattern[None, :] == np.arange(len(self._pools))[:, None]
        self._rounds_before = np.cumsum(taken, axis=1) - taken
        """int64 [pools, pattern], rounds of each pool before each of the pattern's."""
        self._rounds_of = [np.flatnonzero(row) for row in taken]
        self._rounds_in_pattern = taken.sum(axis=1)
        self._epochs: list[OrderedDict[int, EpochOrder]] = [OrderedDict() for _ in self._pools]
        self.rows_per_epoch = int(self._num_rows.sum())
        """Length of an epoch: as many samples as there are in all datasets."""

    def locate(self, positions: Indices) -> Located:
        """What stands at some positions, int64 [n], each 0 or more."""
        turns, places = np.divmod(positions, self._config.num_streams)
        cycles, rounds = np.divmod(turns, len(self._pattern))
        pool = self._pattern[rounds]
        own_rounds = cycles * self._rounds_in_pattern[pool] + self._rounds_before[pool, rounds]
        own = own_rounds * self._config.num_streams + places
        epoch, inside = np.divmod(own, self._num_rows[pool])
        chunk, row = np.empty_like(positions), np.empty_like(positions)
        for number, of_epoch in sorted({*zip(pool.tolist(), epoch.tolist(), strict=True)}):
            chosen = (pool == number) & (epoch == of_epoch)
            chunk[chosen], row[chosen] = self._epoch(number, of_epoch).locate(inside[chosen])
        if not self._pooled:
            return Located(pool, epoch, chunk, row)
        dataset = np.searchsorted(self._first_chunks, chunk, side="right") - 1
        return Located(dataset, epoch, chunk - self._first_chunks[dataset], row)

    def last_position(self, dataset: int, epoch: int, chunks: Indices) -> Indices:
        """int64 [n], positions after which no row of these chunks of a dataset's epoch comes."""
        pool = 0 if self._pooled else dataset
        if self._pooled:
            chunks = chunks + self._first_chunks[dataset]
        own = epoch * self._num_rows[pool] + self._epoch(pool, epoch).last_position(chunks)
        own_rounds, places = np.divmod(own, self._config.num_streams)
        cycles, rounds = np.divmod(own_rounds, self._rounds_in_pattern[pool])
        turns = cycles * len(self._pattern) + self._rounds_of[pool][rounds]
        return turns * self._config.num_streams + places

    def _epoch(self, pool: int, epoch: int) -> EpochOrder:
        kept = self._epochs[pool]
        found = kept.get(epoch)
        if found is None:
            # First the older one goes: the plan of ten million chunks takes 170 MB.
            while len(kept) >= _KEPT_EPOCHS:
                kept.popitem(last=False)
            found = kept[epoch] = EpochOrder(self._pools[pool], self._config, pool, epoch)
        kept.move_to_end(epoch)
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


def _pattern(weights: Sequence[float]) -> Indices:
    """int64 [rounds], whose turn it is, each weight's turns spread evenly."""
    counts = _turns(weights)
    places = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    pools = np.repeat(np.arange(len(counts)), counts)
    return pools[np.argsort(places, kind="stable")].astype(np.int64)


def _turns(weights: Sequence[float]) -> list[int]:
    """Turns of each weight in a pattern, in the ratio of the weights."""
    # Of its decimals, not of its bits: 0.7 is 7 / 10.
    exact = [Fraction(str(float(weight))) for weight in weights]
    unit = math.lcm(*(weight.denominator for weight in exact))
    counts = [int(weight * unit) for weight in exact]
    divisor = math.gcd(*counts)
    if sum(counts) <= PATTERN_ROUNDS * divisor:
        return [count // divisor for count in counts]
    shares = [weight / sum(exact) * PATTERN_ROUNDS for weight in exact]
    # A dataset that has a weight has a turn, however small.
    counts = [max(math.floor(share), int(share > 0)) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda number: counts[number] - shares[number])
    for number in by_remainder[: max(0, PATTERN_ROUNDS - sum(counts))]:
        counts[number] += 1
    return counts


def _require_weights(weights: Sequence[float], num_datasets: int) -> None:
    if len(weights) == num_datasets and all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0:
        return
    raise ConfigError(
        "option-out-of-range",
        where="--stream.dataset-weights",
        expected=f"{num_datasets} weights, one for each dataset, none negative, not all 0",
        actual=str(tuple(weights)),
        remedy="give as many weights as datasets, or leave the option out to pool the datasets",
    )

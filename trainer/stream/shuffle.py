"""Permutations that are a pure function of what they are for.

Things are sorted by a hash of their number. NumPy's own shuffles may give other values in a later release, for all that
its generators' raw bits are fixed; a sort of numbers that are told apart by their index as well cannot.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.counter_hash import words

_HASHED_AT_A_TIME = 2**20


def permutation(num: int, seed: int, *purpose: int) -> npt.NDArray[np.int32]:
    """The numbers from 0 to `num` - 1, shuffled.

    Args:
        num: Fewer than 2**31.
        seed: Of the run.
        purpose: What it is for; another purpose gives an unrelated permutation.

    Returns:
        int32 [num].
    """
    index_bits = np.uint64((1 << num.bit_length()) - 1)
    keys = np.empty(num, np.uint64)
    for start in range(0, num, _HASHED_AT_A_TIME):
        numbers = np.arange(start, min(start + _HASHED_AT_A_TIME, num))
        # The high bits are random and the low ones the index: one array, sorted in place, is order and result.
        keys[start : start + len(numbers)] = words(seed, *purpose, numbers) & ~index_bits | numbers.astype(np.uint64)
    keys.sort()
    return (keys & index_bits).astype(np.int32)


def permutations(
    starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], seed: int, *purpose: int
) -> list[npt.NDArray[np.int32]]:
    """The numbers of several runs, each run shuffled on its own. A run's permutation does not depend on the others.

    Args:
        starts: int64 [runs], the first number of each run; what its permutation is drawn from.
        sizes: int64 [runs], how many numbers follow one another in each.
        seed: Of the run.
        purpose: What it is for.

    Returns:
        For each run int32 [size], the numbers less the run's first.
    """
    ends = np.cumsum(sizes)
    runs = np.repeat(np.arange(len(sizes)), sizes)
    inside = np.arange(len(runs)) - (ends - sizes)[runs]
    # lexsort is stable, so equal hashes come in the order of their numbers.
    found = inside[np.lexsort((words(seed, *purpose, starts[runs] + inside), runs))].astype(np.int32)
    # Copies: a view would keep the memory of all runs for as long as one of them is kept.
    return [run.copy() for run in np.split(found, ends[:-1])]

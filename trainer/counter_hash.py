"""Random numbers from counters: what is drawn depends on who asks for what, never on what was drawn before.

So a resumed run, on other ranks and in other batches, draws for every sample exactly what the uninterrupted run would
have.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LOW_64 = 0xFFFFFFFFFFFFFFFF


def uniform(seed: int, *counters: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each combination of counters.

    Args:
        seed: Any integer.
        counters: Integers or int64 arrays that broadcast together.

    Returns:
        float64, of the broadcast shape.
    """
    return (words(seed, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def words(seed: int, *counters: int | npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """As `uniform`, 64 random bits each."""
    state = np.asarray(seed & _LOW_64, np.uint64)
    with np.errstate(over="ignore"):
        state = _mix(state + _GOLDEN)
        for counter in counters:
            state = _mix((state ^ _mix(np.asarray(counter).astype(np.uint64) + _GOLDEN)) * _GOLDEN)
    return state


def _mix(word: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele, Lea and Flood, OOPSLA 2014)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))

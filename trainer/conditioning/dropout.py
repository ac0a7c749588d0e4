"""Which encoders a sample keeps: drawn from the seed and the sample's position alone.

Not from a generator that is advanced step by step: so a resumed run, on other ranks and in other batches, leaves out
of every sample exactly what the uninterrupted run would have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def keep_mask(seed: int, positions: npt.NDArray[np.int64], dropout: Sequence[float]) -> npt.NDArray[np.bool_]:
    """Draws encoder dropout.

    Args:
        seed: The run's.
        positions: int64 [n], the samples' positions in the stream.
        dropout: [encoders], probability of leaving each out.

    Returns:
        bool [n, encoders]; True keeps the encoder's hidden states and its pooled vector, both.
    """
    lanes = np.arange(len(dropout), dtype=np.uint64)
    with np.errstate(over="ignore"):
        # SplitMix64 (Steele, Lea and Flood, 2014) over seed, then position and encoder: a good hash of a counter.
        state = _mix(np.uint64(seed & 0xFFFFFFFFFFFFFFFF) + _GOLDEN)
        counters = positions.astype(np.uint64)[:, None] * np.uint64(len(dropout)) + lanes[None, :]
        words = _mix(_mix(counters * _GOLDEN + state) ^ state)
    uniform = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    kept: npt.NDArray[np.bool_] = uniform >= np.asarray(dropout, np.float64)[None, :]
    return kept


def _mix(value: np.uint64 | npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    word = np.asarray(value, np.uint64)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))

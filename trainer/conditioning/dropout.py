"""Which encoders a sample keeps: drawn from the seed and the sample's position alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainer.counter_hash import uniform


def keep_mask(seed: int, positions: npt.NDArray[np.int64], dropout: Sequence[float]) -> npt.NDArray[np.bool_]:
    """Draws encoder dropout.

    Args:
        seed: The run's.
        positions: int64 [n], the samples' positions in the stream.
        dropout: [encoders], probability of leaving each out.

    Returns:
        bool [n, encoders]; True keeps the encoder's hidden states and its pooled vector, both.
    """
    drawn = uniform(seed, positions[:, None], np.arange(len(dropout))[None, :])
    kept: npt.NDArray[np.bool_] = drawn >= np.asarray(dropout, np.float64)[None, :]
    return kept

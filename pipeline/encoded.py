"""Encoded captions, as they will be stored: byte planes on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.counters import Counters
from schemas.planes import Planes


@dataclass(frozen=True)
class CaptionTensors:
    """What one encoder made of one caption; possibly views into a whole batch.

    Attributes:
        num_tokens: Real tokens.
        truncated: Whether tokens were cut.
        stored_tokens: T, tokens that are stored.
        hidden: Planes of [T, D].
        pooled: Planes of [P], or None.
        eos: Planes of [D], or None.
    """

    num_tokens: int
    truncated: bool
    stored_tokens: int
    hidden: Planes
    pooled: Planes | None
    eos: Planes | None

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(plane.nbytes for tensor in (self.hidden, self.pooled, self.eos) for plane in tensor or ())

    def copy(self) -> CaptionTensors:
        """In memory of its own, so that a batch need not stay in memory for one caption of it."""
        hidden, pooled, eos = (_copy(tensor) for tensor in (self.hidden, self.pooled, self.eos))
        assert hidden is not None
        return CaptionTensors(self.num_tokens, self.truncated, self.stored_tokens, hidden, pooled, eos)


EncodedCaption = Mapping[str, CaptionTensors]
"""By encoder name."""


@dataclass(frozen=True)
class EncodedWindow:
    """Rows of a shard with their tensors.

    Attributes:
        keys: [rows].
        captions: [rows].
        rows: [rows]; None for a row that was rejected.
        not_finite: Indices of rows with a caption whose outputs are not finite in the storage dtype.
        counters: What this window added.
    """

    keys: Sequence[str]
    captions: Sequence[str | None]
    rows: Sequence[EncodedCaption | None]
    not_finite: Sequence[int]
    counters: Counters


@dataclass(frozen=True)
class EncodedBatch:
    """What an encoder made of a batch of B captions.

    Attributes:
        hidden: Planes of [N, D], the captions' tokens one after the other.
        starts: int64 [B + 1], each caption's tokens among the N.
        pooled: Planes of [B, P], or None.
        eos: Planes of [B, D], or None.
        finite: bool [B], whether all of a caption's values are finite.
    """

    hidden: Sequence[npt.NDArray[np.uint8]]
    starts: npt.NDArray[np.int64]
    pooled: Sequence[npt.NDArray[np.uint8]] | None
    eos: Sequence[npt.NDArray[np.uint8]] | None
    finite: npt.NDArray[np.bool_]

    def caption(self, row: int, num_tokens: int, *, truncated: bool) -> CaptionTensors:
        """One caption of the batch; a view."""
        start, stop = self.starts[row], self.starts[row + 1]
        return CaptionTensors(
            num_tokens,
            truncated,
            int(stop - start),
            [plane[start:stop].reshape(-1) for plane in self.hidden],
            None if self.pooled is None else [plane[row] for plane in self.pooled],
            None if self.eos is None else [plane[row] for plane in self.eos],
        )


def _copy(planes: Planes | None) -> Planes | None:
    return None if planes is None else [plane.copy() for plane in planes]

"""Counters of encoding that add up over windows, shards and workers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Counters:
    """Totals; `a + b` adds every field."""

    num_captions: int = 0
    """Rows encoded, repeats of a caption included."""
    num_repeated: int = 0
    """Of these, captions that were not computed again, having been encoded in the same shard."""
    num_rejects: int = 0
    num_tokens: int = 0
    """Real tokens computed, all encoders."""
    num_padded_tokens: int = 0
    """Tokens computed with padding, all encoders."""
    num_truncated: int = 0
    """Captions that lost tokens to at least one encoder's limit."""
    num_bytes: int = 0
    """Bytes stored."""
    raw_bytes: int = 0
    """Bytes of tensors before compression."""
    encode_seconds: float = 0.0
    """Time that the thread of the encoders spent, waiting for the device included."""
    device_seconds: float = 0.0
    """Time that the device was busy with the encoders."""
    flops: float = 0.0
    """Floating-point operations of the models for the tokens that are stored, as they are usually counted."""
    num_images: int = 0
    """Images encoded."""

    def __add__(self, other: Counters) -> Counters:
        return Counters(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    @property
    def padding_share(self) -> float:
        """Share of the computed tokens that is padding, 0 to 1."""
        return 1 - self.num_tokens / self.num_padded_tokens if self.num_padded_tokens else 0.0

"""Clocks that wait for the device, and what a measurement gives."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """How long something takes, the device's work included."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Waits for what the device was told to do; nothing on a processor."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Row:
    """Figures of one engine on one kind of captions.

    Attributes:
        engine: Which.
        dtype: In which it computes.
        captions: Kind, of `captions.KINDS`.
        t5_tokens: Of the longest caption, or what all are padded to.
        batch: Captions of a batch, or its tokens for ours.
        tried: Captions a second with each of the batches that were tried.
        flops: Of a caption, as they are usually counted.
        tokens: Real tokens of a caption, all three encoders.
        padding_share: Of the computed tokens.
        rates: Captions a second, of each repetition.
    """

    engine: str
    dtype: str
    captions: str
    t5_tokens: int
    batch: int
    tried: dict[str, float]
    flops: float
    tokens: float
    padding_share: float
    rates: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Captions a second: the median."""
        return statistics.median(self.rates)

    def facts(self, product: dict[str, float]) -> dict[str, Any]:
        """For the results.

        Args:
            product: FLOP/s of the bare matrix product by dtype.
        """
        return {
            "engine": self.engine,
            "dtype": self.dtype,
            "captions": self.captions,
            "t5_tokens": self.t5_tokens,
            "batch": self.batch,
            "tried": {name: round(rate, 1) for name, rate in self.tried.items()},
            "captions_per_second": round(self.rate, 2),
            "repetitions": [round(rate, 2) for rate in self.rates],
            "real_tokens_per_second": round(self.rate * self.tokens, 1),
            "padding_share": round(self.padding_share, 4),
            "model_flops_per_second": round(self.rate * self.flops),
            "share_of_product": round(self.rate * self.flops / product[self.dtype], 4),
        }

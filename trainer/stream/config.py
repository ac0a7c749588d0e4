"""How a run reads its datasets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schemas.errors import ConfigError


@dataclass(frozen=True)
class StreamConfig:
    """Order, mixture, prefetch and cache. The first block decides which samples come when; the second only how fast."""

    captions: tuple[str, ...] = ("txt",)
    """Caption groups. Which one a chunk of samples uses is drawn anew in every epoch."""

    caption_weights: tuple[float, ...] | None = None
    """Weight of each caption group. Default: equal."""

    dataset_weights: tuple[float, ...] | None = None
    """Weight of each dataset, if there are several. Default: pooled, so that an epoch has every sample once."""

    shuffle: bool = True
    """False reads the datasets as they lie."""

    num_streams: int = 64
    """Canonical streams that the chunks are dealt to, and so the chunks that are mixed at any time. Part of the order;
    best a multiple of every number of ranks the run will have, as then no chunk is read by two ranks."""

    block_chunks: int = 1
    """Consecutive chunks of a stream whose rows are shuffled together. Part of the order."""

    tail: Literal["pad", "drop"] = "pad"
    """The end of an epoch, where less than a batch is left. pad: fill it with rows that count for nothing; drop: leave
    these samples out of this epoch."""

    holdout_rows: int = 0
    """Rows kept from training, for the validation loss: whole chunks, chosen by hash, the same for every run."""

    allow_incomplete: bool = False
    """Leave out shards that lack a wanted group. Otherwise they are an error."""

    memory_bytes: int = 4 * 1024**3
    """Bound on the host memory of one rank's chunks, those being read included."""

    ready_batches: int = 4
    """Batches assembled ahead of the training step."""

    num_threads: int | None = None
    """Threads that decode, and as many that assemble. Default: the cores of the machine over its ranks, at most 8."""

    num_readers: int = 16
    """Ranged reads at a time."""

    read_attempts: int = 5
    """Reads of a chunk before its error ends the run; each later one waits twice as long."""

    read_timeout_seconds: float = 120.0
    """Bound on reading a chunk, all attempts together."""

    cache: str | None = None
    """Local folder that keeps chunks between epochs and runs; shared by the ranks of a machine."""

    cache_bytes: int = 100 * 1024**3
    """Bound on the cache."""

    merge: Literal["auto", "host", "device"] = "auto"
    """Where byte planes become numbers. auto: on the GPU if there is one."""

    def __post_init__(self) -> None:
        """Refuses numbers that mean nothing."""
        for name in ("num_streams", "block_chunks", "memory_bytes", "ready_batches", "num_readers", "read_attempts"):
            _require(getattr(self, name) >= 1, name, "a number above 0", getattr(self, name))
        _require(self.num_threads is None or self.num_threads >= 1, "num_threads", "a number above 0", self.num_threads)
        _require(self.read_timeout_seconds > 0, "read_timeout_seconds", "a number above 0", self.read_timeout_seconds)
        _require(self.holdout_rows >= 0, "holdout_rows", "0 or more", self.holdout_rows)
        _require(len(self.captions) > 0, "captions", "at least one caption group", self.captions)
        weights = self.caption_weights
        _require(
            weights is None or (len(weights) == len(self.captions) and min(weights) >= 0 and sum(weights) > 0),
            "caption_weights",
            f"{len(self.captions)} weights, none negative, not all 0",
            weights,
        )


def _require(holds: bool, field: str, expected: str, actual: object) -> None:
    if not holds:
        raise ConfigError(
            "option-out-of-range",
            where=f"--stream.{field.replace('_', '-')}",
            expected=expected,
            actual=str(actual),
            remedy="choose another value, or leave the option out",
        )

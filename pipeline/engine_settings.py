"""Memory budgets and concurrency of a worker, for GPUs and for CPUs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineSettings:
    """How a worker uses its machine. None of it changes a stored value beyond rounding."""

    batch_tokens: int | None = None
    """Bound on a batch's tokens, padding included. None: measured on a GPU, 1024 on the CPU."""
    window_bytes: int = 32 * 1024**2
    """Raw output bytes of the rows that are sorted and encoded together; about three windows are in memory at once."""
    repeated_bytes: int = 64 * 1024**2
    """Bound on the outputs kept for captions that come again later in the shard."""
    image_window_bytes: int = 32 * 1024**2
    """Bytes of the cropped pixels that are encoded together, sorted by size; about two such windows are in memory."""
    batch_pixels: int = 512 * 512
    """Pixels of the images the autoencoder encodes at a time, unless the user gave their number."""
    decoding_pixels: int = 64_000_000
    """Bound on the pixels of images being decoded at the same time."""
    shards_in_hand: int = 1
    """Shards that are worked on at the same time: while one is written, the next is computed. A processor that computes
    has no time left in which to read and write something else."""
    num_decoders: int = 2
    """Threads that decode images."""


GPU_SETTINGS = EngineSettings(
    window_bytes=512 * 1024**2,
    repeated_bytes=256 * 1024**2,
    image_window_bytes=512 * 1024**2,
    batch_pixels=4 * 1024**2,
    decoding_pixels=256_000_000,
    shards_in_hand=2,
)
CPU_SETTINGS = EngineSettings()

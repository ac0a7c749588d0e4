"""Batches without a dataset, for the tests of what trains on them: rows made of their position alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trainer.stream.batch import Batch, LatentBatch, MicroBatch

CHANNELS, TOKENS, WIDTH, POOLED = 3, 5, 32, 24
SIZES = ((8, 8), (4, 16))

MODEL: dict[str, Any] = {
    "sample_size": 8, "patch_size": 2, "in_channels": CHANNELS, "out_channels": CHANNELS, "num_layers": 2,
    "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": WIDTH, "caption_projection_dim": 16,
    "pooled_projection_dim": POOLED, "pos_embed_max_size": 8, "dual_attention_layers": [], "qk_norm": "rms_norm",
}  # fmt: skip
"""Arguments of diffusers' transformer for these batches."""


def normals(name: int, *shape: int) -> torch.Tensor:
    """Numbers of a name."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(name))


def is_valid(position: int) -> bool:
    """Some rows are not."""
    return position % 7 != 3


def size_of(position: int, *, num_sizes: int) -> int:
    """Which of `SIZES` a row has: a few have the second, so that one rank often has none of it."""
    return int(position % 9 == 5 and num_sizes > 1)


def make_batch(positions: list[int], next_position: int, *, num_sizes: int = 1) -> Batch:
    """The batch of some positions."""
    rows = np.array(positions, np.int64)
    valid = np.array([is_valid(position) for position in positions])
    latents = []
    for number, size in enumerate(SIZES[:num_sizes]):
        chosen = np.array([size_of(p, num_sizes=num_sizes) == number for p in positions]) & valid
        if chosen.any():
            of_size = np.flatnonzero(chosen)
            made = torch.stack([normals(3 * positions[i], CHANNELS, *size) for i in of_size])
            latents.append(
                LatentBatch(of_size, made, np.zeros((len(of_size), 2), np.int32), np.zeros((0, 2), np.int32))
            )
    return Batch(
        position=min(positions),
        next_position=next_position,
        positions=rows,
        datasets=np.zeros(len(rows), np.int32),
        keys=[f"key{position}" for position in positions],
        captions=[f"caption {position}" for position in positions],
        valid=valid,
        kept=np.ones((len(rows), 3), bool),
        prompt_embeds=torch.stack([normals(3 * p + 1, TOKENS, WIDTH) for p in positions]),
        pooled_prompt_embeds=torch.stack([normals(3 * p + 2, POOLED) for p in positions]),
        latents=tuple(latents),
    )


def micro_batch(positions: list[int]) -> MicroBatch:
    """Valid rows of the first size."""
    return MicroBatch(
        torch.stack([normals(3 * p, CHANNELS, *SIZES[0]) for p in positions]),
        torch.stack([normals(3 * p + 1, TOKENS, WIDTH) for p in positions]),
        torch.stack([normals(3 * p + 2, POOLED) for p in positions]),
        np.array(positions, np.int64),
    )


def placeholder() -> MicroBatch:
    """A sample of zeros."""
    return MicroBatch(
        torch.zeros(1, CHANNELS, *SIZES[0]),
        torch.zeros(1, TOKENS, WIDTH),
        torch.zeros(1, POOLED),
        np.zeros(1, np.int64),
    )


@dataclass
class MemoryStream:
    """An endless stream of such batches, one rank's.

    Attributes:
        batch_size: Rows of a batch.
        num_sizes: How many of `SIZES` occur.
        fails_at: Position of the batch that cannot be had.
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    num_sizes: int = 1
    fails_at: int | None = None
    position: int = 0
    waiting_seconds: float = 0.0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            start, step = self.position, self.batch_size * self.world_size
            if self.fails_at is not None and start >= self.fails_at:
                raise OSError("the disk is on fire")
            self.position = start + step
            own = [p for p in range(start, start + step) if p % self.world_size == self.rank]
            yield make_batch(own, self.position, num_sizes=self.num_sizes)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]

"""What goes through the model in a step, as often on every rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from trainer.stream.batch import Batch, MicroBatch


def num_valid_rows(batches: Sequence[Batch]) -> int:
    """Rows of this rank that count."""
    return sum(len(images.rows) for batch in batches for images in batch.latents)


def num_passes(batches: Sequence[Batch]) -> int:
    """Micro-batches of this rank."""
    return sum(len(batch.latents) for batch in batches)


def agreed_passes(
    batches: Sequence[Batch], num_agreed: int, placeholder: MicroBatch
) -> Iterator[tuple[MicroBatch, int]]:
    """Yields micro-batches, and how many of their first rows count.

    A batch of one picture size is filled up to its whole number of rows, so that compiled code sees one shape.

    Args:
        batches: Of this rank.
        num_agreed: Passes that all ranks do; not less than this rank's micro-batches.
        placeholder: For passes that this rank has nothing for; no row of it counts.
    """
    for batch in batches:
        parts = batch.micro_batches()
        for part in parts:
            yield (_filled(part, len(batch.valid)) if len(parts) == 1 else part), len(part.positions)
    for _ in range(num_agreed - num_passes(batches)):
        yield placeholder, 0


def valid_sum(losses: torch.Tensor, num_valid: int) -> torch.Tensor:
    """The sum of the first `num_valid` of losses [n]: a scalar that depends on the model even if these are none."""
    weights = torch.zeros_like(losses)
    weights[:num_valid] = 1
    return (losses * weights).sum()


def _filled(batch: MicroBatch, num_rows: int) -> MicroBatch:
    """Repeats the last row until there are `num_rows`."""
    missing = num_rows - len(batch.positions)

    def filled(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])

    if missing == 0:
        return batch
    return MicroBatch(
        filled(batch.latents),
        filled(batch.prompt_embeds),
        filled(batch.pooled_prompt_embeds),
        np.pad(batch.positions, (0, missing), mode="edge"),
    )

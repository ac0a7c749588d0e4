"""The loss on held-out samples at fixed timesteps, with fixed noise: comparable from step to step and run to run.

The training loss is too noisy to see progress in, as each step draws other timesteps, and the loss depends on them more
than on anything else. At fixed ones it follows the quality of samples (arXiv:2403.03206, section 5.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from schemas.errors import ConfigError
from trainer.agreement import agree
from trainer.distributed import Distributed
from trainer.flow import fixed_draw, row_losses
from trainer.passes import agreed_passes, num_passes, num_valid_rows, valid_sum
from trainer.stream.batch import Batch, MicroBatch


@dataclass(frozen=True)
class ValidationConfig:
    """What is measured on samples kept from training (`--stream.holdout-rows`), with the averaged weights."""

    every_steps: int = 1000
    """Steps from one validation to the next."""

    timesteps: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """t of the noise, 0 is data and 1 is noise."""

    def __post_init__(self) -> None:
        """Refuses numbers that mean nothing."""
        if self.every_steps < 1 or not self.timesteps or not all(0 < t <= 1 for t in self.timesteps):
            raise ConfigError(
                "option-out-of-range",
                where="--validation",
                expected="every-steps above 0, and timesteps above 0 and up to 1",
                actual=f"{self.every_steps}, {self.timesteps}",
                remedy="choose other values, or leave the options out",
            )


@torch.no_grad()
def validation_losses(
    model: nn.Module,
    batches: Iterable[Batch],
    distributed: Distributed,
    *,
    timesteps: Sequence[float],
    seed: int,
    placeholder: MicroBatch,
) -> dict[str, float]:
    """The losses of held-out samples; collective.

    Args:
        model: As trained.
        batches: This rank's; as many on every rank.
        distributed: The ranks.
        timesteps: t, from 0 to 1.
        seed: Of the noise.
        placeholder: As for `agreed_passes`.

    Returns:
        "validation_loss", the mean over samples and timesteps, and "validation_loss/t=0.5" for each timestep.

    Raises:
        RankFailedError: Another rank could not go on.
        Exception: What this rank's batches raised.
    """
    sums = torch.zeros(len(timesteps), device=distributed.device)
    num_samples = 0
    iterator = iter(batches)
    while True:
        pulled: list[Batch] = []
        error: Exception | None = None
        try:
            pulled = [batch for batch in [next(iterator, None)] if batch is not None]
        except Exception as raised:
            error = raised
        agreement = agree(
            distributed,
            num_passes=num_passes(pulled),
            num_valid=num_valid_rows(pulled),
            stopping=not pulled,
            error=error,
        )
        num_samples += agreement.num_valid
        for batch, num_valid in agreed_passes(pulled, agreement.num_passes, placeholder):
            for index, timestep in enumerate(timesteps):
                sums[index] += _loss(model, batch, num_valid, timestep, seed)
        if agreement.stopping:
            break
    dist.all_reduce(sums)
    means = (sums / max(1, num_samples)).tolist()
    each = {f"validation_loss/t={timestep:g}": mean for timestep, mean in zip(timesteps, means, strict=True)}
    return {"validation_loss": sum(means) / len(means), **each}


def _loss(model: nn.Module, batch: MicroBatch, num_valid: int, timestep: float, seed: int) -> torch.Tensor:
    shape, device = batch.latents.shape[1:], batch.latents.device
    drawn = fixed_draw(timestep, seed=seed, positions=batch.positions, shape=shape, device=device)
    return valid_sum(row_losses(model, batch, drawn), num_valid)

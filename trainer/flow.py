"""Rectified flow, as Stable Diffusion 3 trains it (arXiv:2403.03206, sections 2 and 3).

    z_t = (1 - t) x0 + t eps        t = 0 is data, t = 1 is noise
    the model predicts eps - x0

diffusers' `FlowMatchEulerDiscreteScheduler` calls t sigma, and hands 1000 t to the transformer as its timestep.

Timesteps and noise of a sample are drawn from the seed and its position in the stream, never from a generator that is
advanced step by step: a resumed run repeats them, and neither the number of ranks nor gradient accumulation changes
what a sample is trained with.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from schemas.errors import ConfigError
from trainer.stream.batch import MicroBatch

TIMESTEP_SCALE = 1000.0
"""What the transformer calls a timestep: `num_train_timesteps` of the scheduler."""

_SHIFT_AT_1024 = 3.0


@dataclass(frozen=True)
class FlowConfig:
    """Which timesteps are trained how often."""

    logit_mean: float = 0.0
    """Mean of the normal distribution whose sigmoid is t. Above 0 trains noisier samples more often."""

    logit_std: float = 1.0
    """Its standard deviation."""

    shift: float | None = None
    """Resolution shift a: t becomes a t / (1 + (a - 1) t), since a larger picture needs more noise to be destroyed as
    much. Default: 3 at 1024 px, in proportion to the side of the picture, never below 1."""

    def __post_init__(self) -> None:
        """Refuses numbers that mean nothing."""
        if self.logit_std < 0 or (self.shift is not None and self.shift <= 0):
            raise ConfigError(
                "option-out-of-range",
                where="--flow.logit-std, --flow.shift",
                expected="a standard deviation that is not negative, and a shift above 0",
                actual=f"{self.logit_std}, {self.shift}",
                remedy="the values of Stable Diffusion 3 are 1 and the default",
            )

    def resolved_shift(self, resolution: int) -> float:
        """The shift for pictures of about `resolution` px a side."""
        return self.shift if self.shift is not None else max(1.0, _SHIFT_AT_1024 * resolution / 1024)


class FlowDraw(NamedTuple):
    """What is random about n training samples.

    Attributes:
        timesteps: float32 [n], t from 0 to 1.
        noise: float32 [n, C, h, w].
    """

    timesteps: torch.Tensor
    noise: torch.Tensor


def shift_timesteps(timesteps: torch.Tensor, shift: float) -> torch.Tensor:
    """Moves timesteps (t from 0 to 1) towards noise."""
    return shift * timesteps / (1 + (shift - 1) * timesteps)


def draw(
    config: FlowConfig,
    shift: float,
    *,
    seed: int,
    positions: npt.NDArray[np.int64],
    shape: Sequence[int],
    device: torch.device,
) -> FlowDraw:
    """Timesteps and noise for training samples.

    Args:
        config: The distribution of timesteps.
        shift: As `resolved_shift` gives it.
        seed: Of the run.
        positions: int64 [n], of the samples in the stream.
        shape: (C, h, w) of one sample.
        device: Where to draw; another kind of device draws other numbers.
    """
    normals = _normals(seed, "train", positions, 1 + math.prod(shape), device)
    timesteps = torch.sigmoid(config.logit_mean + config.logit_std * normals[:, 0])
    return FlowDraw(shift_timesteps(timesteps, shift), normals[:, 1:].reshape(len(positions), *shape))


def fixed_draw(
    timestep: float, *, seed: int, positions: npt.NDArray[np.int64], shape: Sequence[int], device: torch.device
) -> FlowDraw:
    """Noise for validation samples, the same at all times, at one timestep (t from 0 to 1)."""
    noise = _normals(seed, "validation", positions, math.prod(shape), device).reshape(len(positions), *shape)
    return FlowDraw(torch.full((len(positions),), timestep, device=device), noise)


def noised(latents: torch.Tensor, drawn: FlowDraw) -> torch.Tensor:
    """z_t [n, C, h, w] of x0 [n, C, h, w]."""
    t = drawn.timesteps[:, None, None, None]
    return (1 - t) * latents + t * drawn.noise


def row_losses(model: nn.Module, batch: MicroBatch, drawn: FlowDraw) -> torch.Tensor:
    """The mean squared error of each sample, over all its values: float32 [n].

    Args:
        model: diffusers' SD3 transformer.
        batch: n samples.
        drawn: Of these samples.
    """
    latents = batch.latents.float()
    predicted = model(
        hidden_states=noised(latents, drawn),
        encoder_hidden_states=batch.prompt_embeds,
        pooled_projections=batch.pooled_prompt_embeds,
        timestep=drawn.timesteps * TIMESTEP_SCALE,
        return_dict=False,
    )[0]
    return (predicted.float() - (drawn.noise - latents)).square().mean(dim=(1, 2, 3))


def _normals(
    seed: int, purpose: str, positions: npt.NDArray[np.int64], size: int, device: torch.device
) -> torch.Tensor:
    """float32 [n, size], each row of a generator of its own."""
    out = torch.empty((len(positions), size), dtype=torch.float32, device=device)
    generator = torch.Generator(device)
    for row, position in zip(out, positions.tolist(), strict=True):
        name = hashlib.blake2b(f"{seed}/{purpose}/{position}".encode(), digest_size=7).digest()
        row.normal_(generator=generator.manual_seed(int.from_bytes(name, "little")))
    return out

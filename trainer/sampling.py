"""Pictures out of noise: Euler steps of the rectified flow with classifier-free guidance.

The steps are those of diffusers' `FlowMatchEulerDiscreteScheduler`, so that an exported model samples alike in
`StableDiffusion3Pipeline`. Every picture's first noise depends on its seed alone, not on its batch or device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import nn

from schemas.errors import ConfigError
from schemas.identity import ENCODER_NAMES, EncoderName
from trainer.conditioning import Conditioning
from trainer.prompts import PromptEncoding, Prompts

Subset = tuple[EncoderName, ...]


@dataclass(frozen=True)
class SamplingConfig:
    """How pictures are sampled."""

    steps: int = 28
    """Euler steps: passes through the model, each for two batches with guidance."""

    guidance: float = 5.0
    """Strength of classifier-free guidance (arXiv:2207.12598): 1 is none; more follows the prompt more closely, with
    less variety."""

    seed: int = 0
    """Prompt number n starts from the noise of seed + n, with every subset of encoders."""

    batch_size: int = 8
    """Pictures at a time."""

    def __post_init__(self) -> None:
        """Refuses numbers that mean nothing."""
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    "option-out-of-range",
                    where=f"sampling, {name.replace('_', '-')}",
                    expected="a number above 0",
                    actual=str(getattr(self, name)),
                    remedy="choose another value, or leave the option out",
                )


@torch.no_grad()
def sample_latents(
    model: nn.Module,
    conditioning: Conditioning,
    unconditional: Conditioning | None,
    *,
    latent_shape: Sequence[int],
    num_steps: int,
    guidance_scale: float,
    shift: float,
    seeds: Sequence[int],
) -> torch.Tensor:
    """Samples latents, one for each row of the conditioning.

    Args:
        model: diffusers' SD3 transformer, on one device.
        conditioning: Of B prompts, on that device.
        unconditional: Of B empty ones; not needed without guidance.
        latent_shape: (C, h, w).
        num_steps: Euler steps.
        guidance_scale: 1 is no guidance.
        shift: Resolution shift of the noise levels, as in training.
        seeds: B seeds of the first noise.

    Returns:
        float32 [B, C, h, w], on the device: scaled and shifted as the model was trained with, pixels about -1 to 1.
    """
    context, pooled = conditioning.prompt_embeds, conditioning.pooled_prompt_embeds
    guided = guidance_scale != 1.0
    if guided:
        assert unconditional is not None, "guidance needs the unconditional conditioning"
        context = torch.cat([unconditional.prompt_embeds, context])
        pooled = torch.cat([unconditional.pooled_prompt_embeds, pooled])
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(num_steps, device=context.device)
    latents = first_noise(seeds, latent_shape).to(context.device)
    for timestep in scheduler.timesteps:
        inputs = torch.cat([latents, latents]) if guided else latents
        velocity = model(
            hidden_states=inputs.to(context.dtype),
            encoder_hidden_states=context,
            pooled_projections=pooled,
            timestep=timestep.expand(len(inputs)),
            return_dict=False,
        )[0].float()
        if guided:
            without, given = velocity.chunk(2)
            velocity = without + guidance_scale * (given - without)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents


def first_noise(seeds: Sequence[int], latent_shape: Sequence[int]) -> torch.Tensor:
    """float32 [B, C, h, w], drawn on the CPU, whose numbers are the same everywhere."""
    return torch.stack(
        [torch.randn(tuple(latent_shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def sample_pictures(
    model: nn.Module,
    prompts: Prompts,
    subsets: Sequence[Subset],
    *,
    encoding: PromptEncoding,
    decode: Callable[[torch.Tensor], list[Image.Image]],
    latent_shape: Sequence[int],
    shift: float,
    config: SamplingConfig,
) -> list[list[Image.Image]]:
    """A picture of every prompt with every subset of the encoders.

    Args:
        model: diffusers' SD3 transformer.
        prompts: R of them.
        subsets: C subsets of the encoders; the empty one samples without a prompt.
        encoding: How the run turns prompts into conditioning.
        decode: Latents [B, C, h, w] into pictures (`trainer.latent_decoder`).
        latent_shape: (C, h, w) of a picture.
        shift: As `sample_latents`.
        config: Steps, guidance and seed.

    Returns:
        R rows of C pictures. Those of a row start from the same noise, so that only the encoders make a difference.
    """
    pictures: list[list[Image.Image]] = [[] for _ in prompts.rows]
    for subset in subsets:
        for start in range(0, len(prompts.rows), config.batch_size):
            rows = prompts.rows[start : start + config.batch_size]
            latents = sample_latents(
                model,
                encoding.encode(prompts, rows, subset),
                encoding.encode(prompts, rows, ()),
                latent_shape=latent_shape,
                num_steps=config.steps,
                guidance_scale=config.guidance,
                shift=shift,
                seeds=[config.seed + number for number in range(start, start + len(rows))],
            )
            for number, picture in enumerate(decode(latents), start=start):
                pictures[number].append(picture)
    return pictures


def parse_subset(text: str) -> Subset:
    """A subset of the encoders as users write it: `clip_l,clip_g`, `all` or `none`.

    Raises:
        ConfigError: A name is unknown.
    """
    if text in ("all", "none"):
        return ENCODER_NAMES if text == "all" else ()
    names = [name.strip() for name in text.split(",")]
    unknown = sorted(set(names) - set(ENCODER_NAMES))
    if unknown:
        raise ConfigError(
            "encoder-unknown",
            where="--encoders",
            expected=f"all, none, or some of {','.join(ENCODER_NAMES)} with commas between",
            actual=", ".join(unknown),
            remedy="correct the name; several subsets have spaces between: --encoders all clip_l,clip_g t5",
        )
    return tuple(name for name in ENCODER_NAMES if name in names)


def subset_label(subset: Subset) -> str:
    """What a grid has above the column."""
    if subset == ENCODER_NAMES:
        return "all encoders"
    return " + ".join(subset) or "no encoder"

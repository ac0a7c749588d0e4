"""Pictures of stored prompts while a run goes: the same prompts, from the same noise, every time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from schemas.errors import ConfigError
from schemas.identity import LatentIdentity
from trainer.grid import draw_grid
from trainer.latent_decoder import open_decoder
from trainer.prompts import PromptEncoding, Prompts
from trainer.sample import picture_shape
from trainer.sampling import SamplingConfig, parse_subset, sample_pictures, subset_label

_DEFAULT_SUBSETS = ("all", "clip_l,clip_g", "t5", "none")


@dataclass(frozen=True)
class ImagesConfig:
    """Pictures of the `--prompts`, with the averaged weights: a grid of prompts and subsets of encoders."""

    every_steps: int = 5000
    """Steps from one grid to the next."""

    num_prompts: int = 8
    """The first ones of the dataset are used."""

    encoders: tuple[str, ...] = _DEFAULT_SUBSETS
    """Subsets of the text encoders, one column each: all, none, or names with commas between."""

    vae: str | None = None
    """Autoencoder that turns latents into pictures (folder or Hugging Face id). Default: the one that made them."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        """Refuses numbers that mean nothing."""
        if self.every_steps < 1 or self.num_prompts < 1:
            raise ConfigError(
                "option-out-of-range",
                where="--images",
                expected="every-steps and num-prompts above 0",
                actual=f"{self.every_steps}, {self.num_prompts}",
                remedy="choose other values, or leave the options out",
            )


def grid_maker(
    config: ImagesConfig,
    model: nn.Module,
    prompts: Prompts,
    *,
    encoding: PromptEncoding,
    latents: LatentIdentity,
    model_config: Any,
    shift: float,
) -> Callable[[Path | None], None]:
    """Prepares the grids of a run.

    Args:
        config: Which pictures.
        model: As it is trained; sharded models need all ranks to sample.
        prompts: Of which the first are used.
        encoding: How the run turns prompts into conditioning.
        latents: What the model makes.
        model_config: Of diffusers' transformer.
        shift: Resolution shift of the run.

    Returns:
        A function that samples, and writes the grid to a file unless that is None.

    Raises:
        ConfigError: A subset is unknown, or the autoencoder cannot be loaded.
    """
    subsets = [parse_subset(text) for text in config.encoders]
    shown = Prompts(prompts.rows[: config.num_prompts], prompts.empty, prompts.identity)
    decode = open_decoder(latents, source=config.vae, device=encoding.device)
    shape = picture_shape(latents, model_config)

    def make(target: Path | None) -> None:
        pictures = sample_pictures(
            model,
            shown,
            subsets,
            encoding=encoding,
            decode=decode,
            latent_shape=shape,
            shift=shift,
            config=config.sampling,
        )
        if target is not None:
            grid = draw_grid(pictures, shown.texts, [subset_label(subset) for subset in subsets])
            target.parent.mkdir(parents=True, exist_ok=True)
            grid.save(target)

    return torch.no_grad()(make)

"""`python -m trainer sample`: a grid of pictures, prompts by subsets of encoders, from a checkpoint alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from schemas.errors import ConfigError, StorageError
from schemas.identity import LatentIdentity
from trainer.checkpoint_document import read_run
from trainer.checkpoint_folder import find_checkpoint
from trainer.checkpoint_weights import load_model
from trainer.grid import draw_grid
from trainer.latent_decoder import open_decoder
from trainer.prompts import PromptEncoding, Prompts, open_prompts
from trainer.sampling import SamplingConfig, parse_subset, sample_pictures, subset_label

_MOST_PROMPTS = 16


@dataclass(frozen=True)
class SampleConfig:
    """Sample pictures from a checkpoint into one labelled grid."""

    checkpoint: Path
    """Output folder of a training run, which means its latest checkpoint, or one of its step folders."""

    prompts: str
    """Dataset of prompts (folder or bucket URL) that `python -m pipeline encode-prompts` has written."""

    output: Path
    """The picture to write; its suffix decides the format, e.g. grid.png."""

    encoders: tuple[str, ...] = ("all",)
    """Subsets of the text encoders, one column each: all, none, or names with commas between, e.g. `all clip_l,clip_g
    t5`."""

    only: tuple[int, ...] | None = None
    """Numbers of the prompts to use, from 0. Default: the first 16."""

    size: tuple[int, int] | None = None
    """Height and width of the pictures, px. Default: the dataset's; with several, the squarest."""

    shift: float | None = None
    """Resolution shift of the noise levels. Default: the one of the training run."""

    weights: Literal["ema", "last"] = "ema"
    """The moving average of the weights, if the run kept one, or those of the last step."""

    vae: str | None = None
    """Autoencoder that turns latents into pictures (folder or Hugging Face id). Default: the one that made them."""

    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPU if there is one."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of weights and activations. auto: bfloat16 on a GPU, float32 on a CPU."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)


def run(config: SampleConfig) -> int:
    """Samples and writes the grid.

    Returns:
        Exit status 0.

    Raises:
        EncodeOnceError: The checkpoint, the prompts or the options cannot be used.
    """
    folder = find_checkpoint(config.checkpoint)
    description = read_run(folder)
    subsets = [parse_subset(text) for text in config.encoders]
    use_empty = description.left_out == "empty"
    prompts = _selected(open_prompts(config.prompts, description.captions, need_empty=use_empty), config.only)
    device, dtype = _place(config)
    decode = open_decoder(description.latents, source=config.vae, device=device)
    model = load_model(folder, ema=config.weights == "ema", dtype=dtype, device=device)
    pictures = sample_pictures(
        model,
        prompts,
        subsets,
        encoding=PromptEncoding(description.t5_tokens, use_empty, dtype, device),
        decode=decode,
        latent_shape=picture_shape(description.latents, model.config, config.size),
        shift=config.shift or description.shift,
        config=config.sampling,
    )
    grid = draw_grid(pictures, prompts.texts, [subset_label(subset) for subset in subsets])
    _write(config.output, grid.save)
    print(f"{len(pictures)} prompts x {len(subsets)} subsets of encoders, {folder.name}: {config.output}")
    return 0


def picture_shape(latents: LatentIdentity, model: Any, size: tuple[int, int] | None = None) -> tuple[int, int, int]:
    """Shape (C, h, w) of the latents of a picture.

    Args:
        latents: What the model was trained on.
        model: Its configuration.
        size: Height and width of the picture, px. Default: the squarest of the dataset.

    Raises:
        ConfigError: The model cannot make pictures of this size.
    """
    height, width = size or min(latents.buckets, key=lambda bucket: (abs(bucket[0] - bucket[1]), bucket))
    step, largest = latents.downscale_factor * model["patch_size"], model["pos_embed_max_size"]
    if min(height, width) < 1 or height % step or width % step or max(height, width) > step * largest:
        raise ConfigError(
            "picture-size",
            where="--size",
            expected=f"multiples of {step} px, at most {step * largest}",
            actual=f"{height} x {width}",
            remedy="choose another size, or leave the option out",
        )
    return latents.latent_shape(height, width)


def _selected(prompts: Prompts, only: tuple[int, ...] | None) -> Prompts:
    return prompts.select(range(min(_MOST_PROMPTS, len(prompts.rows))) if only is None else only)


def _place(config: SampleConfig) -> tuple[torch.device, torch.dtype]:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "no-gpu",
            where="--device cuda",
            expected="a GPU that torch can use",
            actual="none",
            remedy="use --device cpu",
        )
    name = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    dtype = config.dtype if config.dtype != "auto" else "bfloat16" if name == "cuda" else "float32"
    return torch.device(name), getattr(torch, dtype)


def _write(path: Path, save: Any) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path)
    except (OSError, ValueError) as error:
        raise StorageError(
            "picture-not-written",
            where=str(path),
            expected="a file that can be written, of a picture format (.png, .jpg, .webp)",
            actual=f"{type(error).__name__}: {error}",
            remedy="choose another --output",
        ) from error

"""`python -m trainer export`: a checkpoint as a folder that diffusers' `StableDiffusion3Pipeline` loads.

Text encoders and tokenizers are no part of it, as the trainer has none: they are given to `from_pretrained`, those of
the dataset or None (diffusers puts zeros in the place of a T5 that is None).
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import diffusers
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from schemas.errors import ConfigError
from schemas.identity import ENCODER_NAMES, LatentIdentity
from trainer.checkpoint_document import RUN_NAME, RunDescription, read_run
from trainer.checkpoint_folder import find_checkpoint
from trainer.checkpoint_weights import load_model
from trainer.latent_decoder import load_autoencoder

_LEFT_TO_THE_USER = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
_OPTIONAL = ("image_encoder", "feature_extractor")


@dataclass(frozen=True)
class ExportConfig:
    """Export a checkpoint in diffusers' layout."""

    checkpoint: Path
    """Output folder of a training run, which means its latest checkpoint, or one of its step folders."""

    output: Path
    """Folder to make."""

    weights: Literal["ema", "last"] = "ema"
    """The moving average of the weights, if the run kept one, or those of the last step."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the stored weights."""

    vae: str | None = None
    """Autoencoder to copy into the folder (folder or Hugging Face id); `dataset` is the one that made the latents.
    Default: none; give it to `from_pretrained`."""


def run(config: ExportConfig) -> int:
    """Exports a checkpoint.

    Returns:
        Exit status 0.

    Raises:
        EncodeOnceError: The checkpoint or the options cannot be used.
    """
    if config.output.exists():
        raise ConfigError(
            "output-exists",
            where=f"--output {config.output}",
            expected="a folder that is not there yet",
            actual="it is there",
            remedy="choose another folder, or remove this one",
        )
    folder = find_checkpoint(config.checkpoint)
    description = read_run(folder)
    model = load_model(folder, ema=config.weights == "ema", dtype=getattr(torch, config.dtype))
    writing = config.output.with_name(f"{config.output.name}.writing")
    shutil.rmtree(writing, ignore_errors=True)
    model.save_pretrained(writing / "transformer", safe_serialization=True)
    FlowMatchEulerDiscreteScheduler(shift=description.shift).save_pretrained(writing / "scheduler")
    if config.vae is not None:
        _export_autoencoder(description.latents, config.vae, writing / "vae")
    shutil.copyfile(folder / RUN_NAME, writing / RUN_NAME)
    (writing / "model_index.json").write_text(json.dumps(_index(has_vae=config.vae is not None), indent=2) + "\n")
    os.rename(writing, config.output)
    print(f"{folder.name} in {config.output}\n\n{_example(config, description)}")
    return 0


def _export_autoencoder(identity: LatentIdentity, source: str, folder: Path) -> None:
    if identity.kind == "pixels":
        raise ConfigError(
            "no-autoencoder",
            where="--vae",
            expected="no autoencoder: the model was trained on pixels",
            actual=source,
            remedy="leave the option out",
        )
    load_autoencoder(identity, None if source == "dataset" else source).save_pretrained(folder)


def _index(*, has_vae: bool) -> dict[str, object]:
    """`model_index.json`: which class each part of the pipeline is of."""
    return {
        "_class_name": "StableDiffusion3Pipeline",
        "_diffusers_version": diffusers.__version__,
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "vae": ["diffusers", "AutoencoderKL"] if has_vae else [None, None],
        **{name: [None, None] for name in (*_LEFT_TO_THE_USER, *_OPTIONAL)},
    }


def _example(config: ExportConfig, description: RunDescription) -> str:
    captions = description.captions
    sources = [f"  {name:<7} {captions.encoder(name).source}" for name in ENCODER_NAMES]
    parts = [*_LEFT_TO_THE_USER, *([] if config.vae else ["vae"])]
    return "\n".join(
        [
            "To use it with diffusers: StableDiffusion3Pipeline.from_pretrained(",
            f"    {str(config.output)!r}, {', '.join(f'{part}=...' for part in parts)})",
            "with None for a part to leave out, and the text encoders that made the training captions:",
            *sources,
        ]
    )

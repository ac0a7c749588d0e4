"""Latents back into pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image

from schemas.errors import ConfigError
from schemas.identity import LatentIdentity

Decode = Callable[[torch.Tensor], list[Image.Image]]
"""Latents float [B, C, h, w], as the model is trained with them, into B RGB pictures."""


def open_decoder(
    identity: LatentIdentity,
    *,
    source: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Decode:
    """The decoder for a dataset's latents.

    Args:
        identity: What the latents are.
        source: Hugging Face id or folder of the autoencoder. Default: the one that made the latents.
        dtype: Of the autoencoder.
        device: Of the autoencoder.

    Raises:
        ConfigError: The autoencoder cannot be loaded, or has other latents.
    """
    if identity.kind == "pixels":
        return to_pictures
    autoencoder = load_autoencoder(identity, source).to(device, dtype)

    @torch.no_grad()
    def decode(latents: torch.Tensor) -> list[Image.Image]:
        inner = latents.float() / identity.scaling_factor + identity.shift_factor
        # One at a time: at 1024 px a picture takes gigabytes.
        return [
            picture
            for one in inner.to(device, dtype).split(1)
            for picture in to_pictures(autoencoder.decode(one, return_dict=False)[0])
        ]

    return decode


def to_pictures(values: torch.Tensor) -> list[Image.Image]:
    """RGB values [B, 3, H, W] from -1 to 1, clipped to it, as pictures."""
    levels = ((values.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(picture) for picture in levels.permute(0, 2, 3, 1).cpu().numpy()]


def load_autoencoder(identity: LatentIdentity, source: str | None = None) -> AutoencoderKL:
    """Diffusers' autoencoder of a dataset's latents, float32 on the CPU, in eval mode.

    Looked for in the folder `vae` of the source, as in a Stable Diffusion repository, and at its root.

    Raises:
        ConfigError: It cannot be loaded, or its latents are not those of the dataset.
    """
    assert identity.kind == "autoencoder_kl"
    name = source or identity.source
    revision = identity.revision if source is None else None
    failures = []
    for subfolder in ("vae", ""):
        if Path(name).is_dir() and not (Path(name) / subfolder / "config.json").is_file():
            failures.append(f"no config.json in {Path(name) / subfolder}")
            continue
        try:
            autoencoder = AutoencoderKL.from_pretrained(
                name, subfolder=subfolder or None, revision=revision, low_cpu_mem_usage=False
            )
        except (OSError, ValueError) as error:
            failures.append(f"{type(error).__name__}: {error}"[:300])
            continue
        _require_fitting(autoencoder, identity, name)
        return autoencoder.eval().requires_grad_(False)
    raise ConfigError(
        "autoencoder-unusable",
        where=f"autoencoder {name}",
        expected="diffusers' AutoencoderKL: config.json and weights",
        actual="; ".join(failures),
        remedy="name the autoencoder that made the latents by --vae (a folder or a Hugging Face id)",
    )


def _require_fitting(autoencoder: AutoencoderKL, identity: LatentIdentity, name: str) -> None:
    config = autoencoder.config
    found = {
        "num_channels": config["latent_channels"],
        "downscale_factor": 2 ** (len(config["block_out_channels"]) - 1),
        "shift_factor": float(config.get("shift_factor") or 0.0),
        "scaling_factor": float(config["scaling_factor"]),
    }
    lines = [f"{k}: {getattr(identity, k)} -> {v}" for k, v in found.items() if getattr(identity, k) != v]
    if lines:
        raise ConfigError(
            "autoencoder-differs",
            where=f"autoencoder {name}",
            expected="the latents the model was trained on",
            actual="these numbers differ (dataset -> autoencoder): " + "; ".join(lines),
            remedy="name the autoencoder that made the latents by --vae",
        )

"""Small random autoencoders as diffusers stores them."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL


def small_autoencoder(**changes: object) -> AutoencoderKL:
    """Like Stable Diffusion 3's, but of two levels: a factor of 2 and 4 channels."""
    torch.manual_seed(0)
    settings = {
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "shift_factor": 0.0609,
        "scaling_factor": 1.5305,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    return AutoencoderKL(**{**settings, **changes}).eval()


def save(vae: AutoencoderKL, folder: Path) -> str:
    """Saves it, and returns the folder as an option."""
    vae.save_pretrained(folder)
    return str(folder)


def normalized(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """What the trainer should read for uint8 pixels [B, 3, H, W]: diffusers' own way."""
    with torch.inference_mode():
        mode = vae.encode(pixels.float() / 127.5 - 1).latent_dist.mode()
    return (mode - (vae.config.shift_factor or 0)) * vae.config.scaling_factor

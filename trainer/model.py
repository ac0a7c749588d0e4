"""The MMDiT: diffusers' `SD3Transformer2DModel`, its dimensions from preset and dataset, and its first weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import nn

from schemas.errors import ConfigError
from schemas.identity import LatentIdentity
from trainer.conditioning import ContextLayout


@dataclass(frozen=True)
class ModelConfig:
    """The size of the transformer. What the dataset decides (channels, widths of the conditioning) is not here."""

    depth: int = 24
    """Transformer blocks. In Stable Diffusion 3 it decides the width, too: 64 channels and a head for each block
    (arXiv:2403.03206, section 5.3)."""

    num_heads: int | None = None
    """Attention heads. Default: as many as blocks."""

    head_dim: int = 64
    """Channels of a head; the width of the model is num-heads times this."""

    patch_size: int = 2
    """Side of the square of latent values that makes one token."""

    qk_norm: Literal["rms_norm"] | None = "rms_norm"
    """Normalises queries and keys, without which attention in bfloat16 diverges at high resolution."""

    dual_attention_layers: tuple[int, ...] = ()
    """Blocks with a second attention over the image alone, as Stable Diffusion 3.5 medium has in blocks 0 to 12."""

    sample_size: int | None = None
    """Side of the latents of an ordinary picture; positions are sample-size / patch-size / pos-embed-max-size apart.
    Default: the dataset's resolution."""

    pos_embed_max_size: int | None = None
    """Tokens a side of the largest picture the model has positions for. Default: the largest side of the dataset."""

    def __post_init__(self) -> None:
        """Refuses sizes that are none."""
        sizes = (self.depth, self.num_heads, self.head_dim, self.patch_size, self.sample_size, self.pos_embed_max_size)
        if any(size is not None and size < 1 for size in sizes) or (self.head_dim * self.heads) % 4:
            raise ConfigError(
                "model-size",
                where="--model",
                expected="sizes above 0, and a width (heads times head-dim) that 4 divides",
                actual=str(self),
                remedy="correct the sizes",
            )

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.num_heads if self.num_heads is not None else self.depth


def transformer_config(config: ModelConfig, layout: ContextLayout, latents: LatentIdentity) -> dict[str, Any]:
    """The arguments of diffusers' transformer for a dataset; the same as its saved `config.json` has.

    Args:
        config: The size.
        layout: Of the conditioning.
        latents: What the images are.

    Raises:
        ConfigError: The dataset's pictures do not fit the model.
    """
    step = latents.downscale_factor * config.patch_size
    sides = [side for bucket in latents.buckets for side in bucket]
    largest = max(sides)
    if any(side % step for side in sides):
        raise ConfigError(
            "patch-size",
            where="--model.patch-size",
            expected=f"pictures whose sides the patch of {step} px divides",
            actual=f"sides {', '.join(map(str, sorted(set(sides))))} px",
            remedy="use another patch size, or make latents of another resolution",
        )
    max_size = config.pos_embed_max_size or largest // step
    if largest > max_size * step:
        raise ConfigError(
            "picture-too-large",
            where="--model.pos-embed-max-size",
            expected=f"positions for {largest // step} tokens a side, the dataset's largest",
            actual=str(max_size),
            remedy="raise it, or leave it to its default",
        )
    return {
        "sample_size": config.sample_size or latents.resolution // latents.downscale_factor,
        "patch_size": config.patch_size,
        "in_channels": latents.num_channels,
        "out_channels": latents.num_channels,
        "num_layers": config.depth,
        "attention_head_dim": config.head_dim,
        "num_attention_heads": config.heads,
        "joint_attention_dim": layout.width,
        "caption_projection_dim": config.heads * config.head_dim,
        "pooled_projection_dim": layout.pooled_width,
        "pos_embed_max_size": max_size,
        "dual_attention_layers": list(config.dual_attention_layers),
        "qk_norm": config.qk_norm,
    }


def build_model(arguments: dict[str, Any], *, seed: int, device: torch.device | str = "cpu") -> SD3Transformer2DModel:
    """An untrained transformer, float32, in train mode.

    Args:
        arguments: As `transformer_config` gives them.
        seed: Of the first weights; ranks with the same seed and kind of device make the same weights.
        device: Where to build it.
    """
    dual = tuple(arguments["dual_attention_layers"])
    with torch.device(device):
        model = SD3Transformer2DModel(**{**arguments, "dual_attention_layers": dual})
    initialise(model, torch.Generator(device).manual_seed(seed))
    return model.train()


@torch.no_grad()
def initialise(model: SD3Transformer2DModel, generator: torch.Generator) -> None:
    """First weights as DiT has them, adaLN-zero (arXiv:2212.09748; the paper's `initialize_weights`).

    Linear layers are Xavier uniform with zero biases, the embedders of timestep and pooled captions normal with
    deviation 0.02. Every modulation and the last layer are zero: each block begins as the identity, and the untrained
    model predicts exactly 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.time_text_embed.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
    for layer in _zero_layers(model):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def _zero_layers(model: SD3Transformer2DModel) -> list[nn.Linear]:
    """The linear layers behind every shift, scale and gate, and the last one."""
    layers = [model.norm_out.linear, model.proj_out]
    for block in model.transformer_blocks:
        layers += [block.norm1.linear, block.norm1_context.linear]
    return layers

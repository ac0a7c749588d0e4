"""Loads the encoder of diffusers' AutoencoderKL and runs it on batches of images.

Looked for in `subfolder`, or else in `vae` (as in a Stable Diffusion repository) and at the root of the source:
config.json with diffusion_pytorch_model.safetensors or .bin. The decoder is neither read nor part of the digest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn

from pipeline.encoders.file_trees import FileTree, open_tree
from pipeline.encoders.tensor_files import TensorFiles
from pipeline.encoders.towers import fill_tower, match_tensors
from pipeline.encoders.weight_files import choose_weights
from pipeline.latents.group_norm import fuse_group_norms
from pipeline.latents.options import VaeConfig
from schemas.errors import ConfigError
from schemas.identity import LatentComputeDtype

_STEMS = (
    ("diffusion_pytorch_model", ".safetensors"),
    ("diffusion_pytorch_model", ".bin"),
    ("diffusion_pytorch_model.fp16", ".safetensors"),
    ("diffusion_pytorch_model.fp16", ".bin"),
)
_ARCHITECTURE = (
    "in_channels",
    "out_channels",
    "down_block_types",
    "up_block_types",
    "block_out_channels",
    "layers_per_block",
    "act_fn",
    "latent_channels",
    "norm_num_groups",
    "use_quant_conv",
    "use_post_quant_conv",
    "mid_block_add_attention",
)
# Names that diffusers gave the middle attention's tensors before 2023.
_OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@dataclass(frozen=True)
class Autoencoder:
    """What is known of an autoencoder before its weights are read.

    Attributes:
        module: Its encoder, built on the meta device.
        stored_names: Name in the checkpoint of each parameter, by its name in the module.
        tensors: The weight files, opened.
        revision: Commit of a Hugging Face source.
        architecture: The numbers of its configuration.
        num_channels: Of the latents.
        downscale_factor: Pixels of the image a side of a latent value.
        shift_factor: Subtracted from the posterior's mode.
        scaling_factor: What the difference is multiplied by.
    """

    module: nn.Module = field(repr=False)
    stored_names: dict[str, str] = field(repr=False)
    tensors: TensorFiles = field(repr=False)
    revision: str | None
    architecture: dict[str, Any]
    num_channels: int
    downscale_factor: int
    shift_factor: float
    scaling_factor: float


def find_autoencoder(config: VaeConfig) -> Autoencoder:
    """Finds, downloads if need be, and opens an autoencoder.

    Raises:
        ConfigError: Nothing usable was found; the message says what was looked for and what is there.
    """
    tree = open_tree(config.source, config.revision, "--vae.source")
    folder, weights = _locate(tree, config)
    prefix = f"{folder}/" if folder else ""
    root = tree.fetch([prefix + name for name in (*weights, "config.json")])
    tensors = TensorFiles(root / (prefix + name) for name in weights)
    where = f"{tree.where} {prefix}config.json"
    vae = _build(tree.read_json(prefix + "config.json"), where)
    module = nn.ModuleDict({"encoder": vae.encoder})
    if vae.quant_conv is not None:
        module["quant_conv"] = vae.quant_conv
    found = vae.config
    return Autoencoder(
        module=module,
        stored_names=match_tensors(module.state_dict(), tensors, _spellings),
        tensors=tensors,
        revision=tree.revision,
        architecture={name: _plain(found[name]) for name in _ARCHITECTURE if name in found},
        num_channels=found["latent_channels"],
        downscale_factor=2 ** (len(found["block_out_channels"]) - 1),
        shift_factor=float(found.get("shift_factor") or 0.0),
        scaling_factor=float(found["scaling_factor"]),
    )


class LatentEncoder:
    """An autoencoder's encoder with its weights.

    In bfloat16 its weights and activations lie channels-last, as tensor cores and oneDNN read them. In float32 they
    stay as diffusers has them.

    Args:
        autoencoder: As found. Its module is filled, and used up with that.
        compute_dtype: Of weights and activations.
        device: Where to.

    Attributes:
        device: Where it computes.
        weights_sha256: Digest of the weights, see `WeightsDigest`.
    """

    def __init__(self, autoencoder: Autoencoder, compute_dtype: LatentComputeDtype, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self._dtype: torch.dtype = getattr(torch, compute_dtype)
        self.weights_sha256 = fill_tower(autoencoder, autoencoder.tensors, dtype=self._dtype, device=self.device)
        is_float32 = self._dtype == torch.float32
        self._memory_format = torch.contiguous_format if is_float32 else torch.channels_last
        self._module: Any = autoencoder.module
        autoencoder.module.to(memory_format=self._memory_format)
        if self.device.type == "cuda" and not is_float32:
            fuse_group_norms(autoencoder.module.get_submodule("encoder"))
        self._autoencoder = autoencoder

    @torch.inference_mode()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """The normalized modes of the posteriors of some images.

        Args:
            images: RGB, uint8 [B, 3, H, W], on the device.

        Returns:
            float32 [B, C, H / f, W / f] on the device: `(mode - shift_factor) * scaling_factor`.
        """
        # Rounded once: bfloat16 has no room for a level of 1 / 127.5 above 1.
        scaled = images.to(torch.float32, memory_format=self._memory_format) / 127.5 - 1
        moments = self._module["encoder"](scaled.to(self._dtype))
        if "quant_conv" in self._module:
            moments = self._module["quant_conv"](moments)
        # Channels hold means, then logarithms of variances; a normal distribution's mode is its mean.
        mode = moments[:, : self._autoencoder.num_channels].float()
        return (mode - self._autoencoder.shift_factor) * self._autoencoder.scaling_factor


def _locate(tree: FileTree, config: VaeConfig) -> tuple[str, list[str]]:
    folders = ["vae", ""] if config.subfolder is None else [config.subfolder.strip("/")]
    for folder in folders:
        if "config.json" in tree.names_in(folder):
            weights = choose_weights(tree, folder, _STEMS)
            if weights is not None:
                return folder, weights
    listed = sorted(tree.files)[:12]
    raise ConfigError(
        "weights-not-found",
        where=tree.where,
        expected="config.json with diffusion_pytorch_model.safetensors or .bin, in "
        + ", ".join(repr(folder or ".") for folder in folders),
        actual=f"these files: {', '.join(listed) or 'none'}{' and more' if len(tree.files) > len(listed) else ''}",
        remedy="name the folder that holds the autoencoder by --vae.subfolder",
    )


def _build(config: dict[str, Any], where: str) -> Any:
    try:
        if config.get("_class_name") != "AutoencoderKL":
            raise ValueError(f"_class_name {config.get('_class_name')!r}")
        if config.get("latents_mean") is not None or config.get("latents_std") is not None:
            raise ValueError("latents normalized by latents_mean and latents_std")
        with torch.device("meta"):
            vae = AutoencoderKL.from_config(config)
        if vae.config["in_channels"] != 3:
            raise ValueError(f"in_channels {vae.config['in_channels']}, not 3")
        return vae
    except Exception as error:  # diffusers' constructors raise errors of every kind
        raise ConfigError(
            "unexpected-architecture",
            where=where,
            expected="the config.json of diffusers' AutoencoderKL, for RGB images",
            actual=f"{type(error).__name__}: {error}"[:300],
            remedy="name an AutoencoderKL, such as the vae folder of a Stable Diffusion repository",
        ) from error


def _spellings(parameter: str) -> list[str]:
    old = parameter
    for new_name, old_name in _OLD_NAMES.items():
        old = old.replace(f".{new_name}.", f".{old_name}.")
    return [parameter, old]


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return list(value) if isinstance(value, tuple) else value

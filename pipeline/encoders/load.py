"""From a configuration to an encoder ready to run, or to its identity alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch

from pipeline.encoders.base import TextEncoder
from pipeline.encoders.checkpoints import Checkpoint, find_checkpoint
from pipeline.encoders.clip_huggingface import huggingface_clip, huggingface_clip_tower
from pipeline.encoders.clip_open_clip import open_clip, open_clip_tower
from pipeline.encoders.clip_tower import ClipTower
from pipeline.encoders.config import EncoderConfig, require_max_tokens
from pipeline.encoders.find_tokenizer import load_tokenizer
from pipeline.encoders.float8 import require_float8
from pipeline.encoders.operations import Operations, TowerSizes, choose_operations
from pipeline.encoders.t5 import t5, t5_tower
from pipeline.encoders.t5_tower import T5Tower
from pipeline.encoders.towers import TextTower, digest_weights, fill_tower
from pipeline.tokenizers import CaptionTokenizer
from schemas.errors import ConfigError
from schemas.identity import (
    ENCODER_NAMES,
    ComputeDtype,
    EncoderIdentity,
    EncoderName,
    Padding,
    StorageDtype,
)


@dataclass(frozen=True)
class _Parts:
    """Everything of an encoder but the values of its weights."""

    name: EncoderName
    config: EncoderConfig
    checkpoint: Checkpoint
    tower: TextTower
    tokenizer: CaptionTokenizer


def load_encoder(
    name: EncoderName,
    config: EncoderConfig,
    *,
    padding: Padding,
    compute_dtype: ComputeDtype,
    storage_dtype: StorageDtype,
    device: str | torch.device,
) -> TextEncoder:
    """Finds, checks and loads one text encoder; a vision tower or a decoder is never read.

    Args:
        padding: "max_length" encodes pads like any token, without a mask; "none" sees real tokens only.
        compute_dtype: Of weights and outputs. There is no float16: T5 overflows in it. "float8" is for T5: its linear
            layers in float8, everything else in bfloat16.
        storage_dtype: Recorded in the identity; the encoder itself does not store.
        device: For weights and outputs.

    Raises:
        ConfigError: Source, weights, tokenizer or options cannot be used; each with its own code.
    """
    _require_choices(name, padding, compute_dtype, storage_dtype)
    parts = _open(name, config)
    in_float8, device = compute_dtype == "float8", torch.device(device)
    dtype = torch.bfloat16 if in_float8 else getattr(torch, compute_dtype)
    sizes = _sizes(parts, padding)
    if in_float8:
        widths = {"width": sizes.width, "heads": sizes.heads * sizes.channels, "MLP width": sizes.mlp_width}
        require_float8(device, widths)
    weights_sha256 = fill_tower(parts.tower, parts.checkpoint.tensors, dtype=dtype, device=device)
    identity = _identity(parts, weights_sha256, padding, compute_dtype, storage_dtype)
    operations = choose_operations(sizes, dtype=dtype, device=device, in_float8=in_float8)
    tower = _tower(parts, operations, in_float8=in_float8)
    return TextEncoder(tower, parts.tokenizer, identity, device, eos_id=_eos_id(parts))


def describe_encoder(
    name: EncoderName,
    config: EncoderConfig,
    *,
    padding: Padding,
    compute_dtype: ComputeDtype,
    storage_dtype: StorageDtype,
) -> EncoderIdentity:
    """The identity `load_encoder` would have; reads the weights once for their digest and keeps none of them.

    Raises:
        ConfigError: As `load_encoder`.
    """
    _require_choices(name, padding, compute_dtype, storage_dtype)
    parts = _open(name, config)
    weights_sha256 = digest_weights(parts.tower, parts.checkpoint.tensors)
    return _identity(parts, weights_sha256, padding, compute_dtype, storage_dtype)


def _open(name: EncoderName, config: EncoderConfig) -> _Parts:
    assert name in ENCODER_NAMES, name
    checkpoint = find_checkpoint(name, config)
    tower = open_tower(name, config, checkpoint)
    require_max_tokens(name, config, tower.max_positions)
    return _Parts(name, config, checkpoint, tower, load_tokenizer(name, config, checkpoint, tower))


def _sizes(parts: _Parts, padding: Padding) -> TowerSizes:
    numbers = {name: int(value) for name, value in parts.tower.architecture.items() if isinstance(value, int)}
    return TowerSizes(
        width=numbers["width"],
        mlp_width=numbers["mlp_width"],
        heads=numbers["heads"],
        channels=numbers.get("head_width", numbers["width"] // numbers["heads"]),
        max_tokens=parts.tokenizer.max_tokens,
        padding=padding,
        is_causal=parts.checkpoint.layout != "t5",
    )


def _tower(parts: _Parts, operations: Operations, *, in_float8: bool) -> ClipTower | T5Tower:
    module = parts.tower.module
    if parts.checkpoint.layout == "t5":
        return t5(module, parts.tokenizer.max_tokens, operations=operations, in_float8=in_float8)
    if parts.checkpoint.layout == "open_clip":
        return open_clip(module, operations)
    return huggingface_clip(module, operations)


def _eos_id(parts: _Parts) -> int | None:
    """None: the configuration is from before transformers 4.31, which takes the highest id then."""
    if parts.checkpoint.layout == "huggingface_clip" and parts.tower.eos_id is None:
        return None
    return parts.tokenizer.eos_id


def open_tower(name: EncoderName, config: EncoderConfig, checkpoint: Checkpoint) -> TextTower:
    """The text tower of a checkpoint, without weights."""
    if checkpoint.layout == "t5":
        return t5_tower(checkpoint)
    if checkpoint.layout == "open_clip":
        return open_clip_tower(name, checkpoint, config.open_clip_model)
    return huggingface_clip_tower(checkpoint)


def _identity(
    parts: _Parts, weights_sha256: str, padding: Padding, compute_dtype: ComputeDtype, storage_dtype: StorageDtype
) -> EncoderIdentity:
    tower, tokenizer = parts.tower, parts.tokenizer
    return EncoderIdentity(
        name=parts.name,
        source=parts.config.source,
        revision=parts.checkpoint.revision,
        weights_sha256=weights_sha256,
        tokenizer=tokenizer.library,
        tokenizer_sha256=tokenizer.digest,
        exclamation_as_pad=parts.config.exclamation_as_pad,
        architecture=tower.architecture,
        hidden_layer=tower.hidden_layer,
        hidden_size=tower.hidden_size,
        pooled_size=tower.pooled_size,
        max_tokens=tokenizer.max_tokens,
        pad_token_id=tokenizer.pad_id,
        eos_token_id=tokenizer.eos_id,
        padding=padding,
        attention_mask=padding == "none",
        compute_dtype=compute_dtype,
        storage_dtype=storage_dtype,
    )


def _require_choices(name: EncoderName, padding: str, compute_dtype: str, storage_dtype: str) -> None:
    # A CLIP's share of the work is too small to lose accuracy for.
    computes = [dtype for dtype in get_args(ComputeDtype) if name == "t5" or dtype != "float8"]
    choices = (("padding", padding, get_args(Padding)), ("compute_dtype", compute_dtype, computes))
    for field, value, allowed in (*choices, ("storage_dtype", storage_dtype, get_args(StorageDtype))):
        if value not in allowed:
            why = "; T5 overflows in float16" if field == "compute_dtype" and value == "float16" else ""
            raise ConfigError(
                "option-out-of-range",
                where=f"--{field.replace('_', '-')}",
                expected=f"one of {', '.join(allowed)}{why}",
                actual=str(value),
                remedy="choose one of these",
            )

"""CLIP text towers in transformers' layout (CLIPModel, CLIPTextModelWithProjection)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModelWithProjection
from transformers.activations import QuickGELUActivation

from pipeline.encoders.checkpoints import Checkpoint
from pipeline.encoders.clip_tower import ClipLayer, ClipTower
from pipeline.encoders.linear import joined
from pipeline.encoders.operations import Operations
from pipeline.encoders.towers import TextTower, match_tensors
from schemas.errors import ConfigError

# Configurations from before transformers 4.31 say 2, whatever the vocabulary; transformers then takes the highest id of
# a row for EOS, which it is in CLIP's own vocabulary.
_LEGACY_EOS_ID = 2
_PROJECTION = "text_projection.weight"


def huggingface_clip(module: nn.Module, operations: Operations) -> ClipTower:
    """The tower of a `CLIPTextModelWithProjection` that has its weights; takes them over."""
    assert isinstance(module, CLIPTextModelWithProjection)
    text, heads = module.text_model, module.config.num_attention_heads
    layers = []
    for layer in text.encoder.layers:
        attention, activation = layer.self_attn, layer.mlp.activation_fn
        layers.append(
            ClipLayer(
                layer.layer_norm1,
                joined([attention.q_proj, attention.k_proj, attention.v_proj]),
                attention.out_proj,
                layer.layer_norm2,
                layer.mlp.fc1,
                layer.mlp.fc2,
                heads,
                operations.quick_gelu if isinstance(activation, QuickGELUActivation) else activation,
                operations,
            )
        )
        # Joining copies; the originals would stay as long as the module.
        del attention.q_proj, attention.k_proj, attention.v_proj
    embeddings = text.embeddings
    return ClipTower(
        embeddings.token_embedding.weight,
        embeddings.position_embedding.weight,
        layers,
        text.final_layer_norm,
        module.text_projection.weight.t(),
        operations,
    )


def huggingface_clip_tower(checkpoint: Checkpoint) -> TextTower:
    """Describes and builds, without weights, the text tower of a transformers CLIP checkpoint.

    Raises:
        ConfigError: It is no CLIP, has no text projection, or its tensors do not fit its configuration.
    """
    config = text_config(checkpoint)
    if _PROJECTION not in checkpoint.tensors.names:
        raise ConfigError(
            "clip-without-projection",
            where=checkpoint.tensors.where,
            expected=f"{_PROJECTION}, as a CLIPModel or a CLIPTextModelWithProjection has it (`pooled` needs it)",
            actual=f"no such tensor; the configuration names {checkpoint.config.get('architectures')}",
            remedy="use the whole CLIP model, or the text_encoder of a Stable Diffusion 3 repository",
        )
    with torch.device("meta"):
        module = CLIPTextModelWithProjection(config)
    eos_id = config.eos_token_id
    return TextTower(
        module=module,
        stored_names=match_tensors(module.state_dict(), checkpoint.tensors, lambda parameter: [parameter]),
        architecture={
            "class": "CLIPTextModelWithProjection",
            "layers": config.num_hidden_layers,
            "width": config.hidden_size,
            "heads": config.num_attention_heads,
            "mlp_width": config.intermediate_size,
            "activation": config.hidden_act,
            "norm_eps": config.layer_norm_eps,
            "vocab_size": config.vocab_size,
            "positions": config.max_position_embeddings,
            "projection": config.projection_dim,
        },
        hidden_layer="penultimate, no final norm",
        hidden_size=config.hidden_size,
        pooled_size=config.projection_dim,
        max_positions=config.max_position_embeddings,
        vocab_size=config.vocab_size,
        eos_id=None if eos_id == _LEGACY_EOS_ID or not isinstance(eos_id, int) else eos_id,
    )


def text_config(checkpoint: Checkpoint) -> CLIPTextConfig:
    """The text part of a checkpoint's config.json, with the projection's width.

    Raises:
        ConfigError: The configuration is of another model, or invalid.
    """
    # The vision part is not ours to judge.
    content: dict[str, Any] = {key: value for key, value in checkpoint.config.items() if not key.startswith("vision_")}
    model_type = content.get("model_type")
    try:
        if model_type == "clip" or "text_config" in content:
            whole = CLIPConfig.from_dict(content)
            whole.text_config.projection_dim = whole.projection_dim
            return whole.text_config
        if model_type == "clip_text_model":
            return CLIPTextConfig.from_dict(content)
    except Exception as error:  # transformers' validation raises errors of several libraries
        raise _unexpected(checkpoint, f"{type(error).__name__}: {error}") from error
    raise _unexpected(checkpoint, f"model_type {model_type!r}")


def _unexpected(checkpoint: Checkpoint, actual: str) -> ConfigError:
    return ConfigError(
        "unexpected-architecture",
        where=f"{checkpoint.tree.where} {checkpoint.folder}".strip(),
        expected="the config.json of a CLIP model (model_type clip or clip_text_model)",
        actual=actual,
        remedy="name a CLIP text encoder",
    )

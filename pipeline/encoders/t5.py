"""The encoder of a T5 model."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import T5Config, T5EncoderModel
from transformers.activations import NewGELUActivation
from transformers.models.t5.modeling_t5 import T5Stack

from pipeline.encoders.attention import DistanceBias
from pipeline.encoders.checkpoints import Checkpoint
from pipeline.encoders.float8 import Float8Linear
from pipeline.encoders.linear import joined
from pipeline.encoders.operations import Activation, Operations
from pipeline.encoders.t5_tower import RmsNorm, T5Layer, T5Tower
from pipeline.encoders.towers import TextTower, match_tensors
from schemas.errors import ConfigError

_EMBEDDING = "embed_tokens.weight"


def t5(module: nn.Module, max_tokens: int, *, operations: Operations, in_float8: bool) -> T5Tower:
    """The tower of transformers' T5 encoder stack that has its weights; takes them over.

    Args:
        module: With its weights.
        max_tokens: Of the longest caption.
        operations: Implementations.
        in_float8: Whether linear layers compute in float8.
    """
    assert isinstance(module, T5Stack)
    attention = module.block[0].layer[0].SelfAttention
    with torch.inference_mode():
        bias = DistanceBias(attention.compute_bias(max_tokens, max_tokens)[0])
    gate = _gate(module.block[0].layer[1].DenseReluDense, operations)
    layers = [_layer(block, gate, operations, in_float8=in_float8) for block in module.block]
    norm = _norm(module.final_layer_norm, operations)
    return T5Tower(module.embed_tokens.weight, layers, norm, bias, operations)


def _gate(mlp: Any, operations: Operations) -> Activation:
    """What is between the two projections of every layer's MLP."""
    # transformers' own NewGELU is eight kernels.
    is_gelu = isinstance(mlp.act, NewGELUActivation)
    if not hasattr(mlp, "wi_0"):
        return partial(F.gelu, approximate="tanh") if is_gelu else mlp.act
    return operations.gated_gelu if is_gelu else _gated_by(mlp.act)


def _gated_by(activation: Activation) -> Activation:
    def gate(both_N2M: torch.Tensor) -> torch.Tensor:
        gate_NM, value_NM = both_N2M.chunk(2, dim=-1)
        return activation(gate_NM) * value_NM

    return gate


def _layer(block: Any, gate: Activation, operations: Operations, *, in_float8: bool) -> T5Layer:
    """Takes a layer apart: joining copies, and the originals would stay as long as the module."""
    (first, second), attention = block.layer, block.layer[0].SelfAttention
    mlp = second.DenseReluDense
    is_gated = hasattr(mlp, "wi_0")
    qkv, wi = joined([attention.q, attention.k, attention.v]), joined([mlp.wi_0, mlp.wi_1]) if is_gated else mlp.wi
    linears = [qkv, attention.o, wi, mlp.wo]
    heads, norms = attention.n_heads, (_norm(first.layer_norm, operations), _norm(second.layer_norm, operations))
    del first.SelfAttention, second.DenseReluDense, attention, mlp, block
    if in_float8:
        linears = [Float8Linear(layer.weight, operations) for layer in linears]
    return T5Layer(norms[0], linears[0], linears[1], norms[1], linears[2], gate, linears[3], heads, operations)


def _norm(module: Any, operations: Operations) -> RmsNorm:
    return RmsNorm(module.weight, module.variance_epsilon, operations)


def t5_tower(checkpoint: Checkpoint) -> TextTower:
    """Describes and builds, without weights, the encoder of a T5 checkpoint; a decoder is not read.

    Raises:
        ConfigError: It is no T5, or its tensors do not fit its configuration.
    """
    config = _config(checkpoint)
    with torch.device("meta"):
        stack = T5EncoderModel(config).encoder
    return TextTower(
        module=stack,
        stored_names=match_tensors(stack.state_dict(), checkpoint.tensors, _spellings),
        architecture={
            "class": "T5EncoderModel",
            "layers": config.num_layers,
            "width": config.d_model,
            "heads": config.num_heads,
            "head_width": config.d_kv,
            "mlp_width": config.d_ff,
            "activation": config.feed_forward_proj,
            "norm_eps": config.layer_norm_epsilon,
            "vocab_size": config.vocab_size,
            "relative_buckets": config.relative_attention_num_buckets,
            "relative_max_distance": config.relative_attention_max_distance,
        },
        hidden_layer="last, final norm",
        hidden_size=config.d_model,
        pooled_size=None,
        max_positions=None,
        vocab_size=config.vocab_size,
    )


def _spellings(parameter: str) -> list[str]:
    return [f"encoder.{parameter}"] if parameter != _EMBEDDING else ["shared.weight", f"encoder.{_EMBEDDING}"]


def _config(checkpoint: Checkpoint) -> T5Config:
    model_type = checkpoint.config.get("model_type")
    try:
        if model_type == "t5":
            return T5Config.from_dict({**checkpoint.config, "use_cache": False})
        actual = f"model_type {model_type!r}"
    except Exception as error:  # transformers' validation raises errors of several libraries
        actual = f"{type(error).__name__}: {error}"
    raise ConfigError(
        "unexpected-architecture",
        where=f"{checkpoint.tree.where} {checkpoint.folder}".strip(),
        expected="the config.json of a T5 model (model_type t5)",
        actual=actual,
        remedy="name a T5 model, with or without its decoder",
    )

"""Activation checkpointing, compilation and sharding of the transformer, in this order, block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint

_MOST_VARIANTS = 64
_CAST_ARGUMENTS = ("hidden_states", "encoder_hidden_states", "pooled_projections")


@dataclass(frozen=True)
class ParallelConfig:
    """How the model is computed. Nothing here changes what is computed, but for the rounding of `dtype`."""

    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of weights and activations in the passes. Weights, optimizer and EMA are kept, and gradients added up over the
    ranks, in float32."""

    activation_checkpointing: bool = False
    """Keep only the blocks' inputs for the backward pass and compute the rest again: a third more work, a fraction of
    the memory."""

    compile: bool = False
    """Compile the blocks with torch.compile: takes a minute at the start, and needs a C compiler."""

    reshard_after_forward: bool = True
    """Let go of a block's gathered weights until its backward pass. False needs the memory of a whole copy of the
    model, and one gather less a block and step."""

    timeout_seconds: float | None = None
    """How long a rank waits for the others. Default: as long as all attempts of a read may take, and five minutes."""

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch knows it."""
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32


def parallelize(model: SD3Transformer2DModel, config: ParallelConfig, mesh: DeviceMesh) -> None:
    """Prepares a model for training, in place. Its state dict keeps its names.

    Half precision is FSDP's policy, on one rank, too, rather than autocast: the residual stream is then bfloat16 as
    well, gathers are half the size, and one GPU computes as many do. Only a single rank in float32 needs no sharding.

    Args:
        model: float32, on the device of the mesh.
        config: How.
        mesh: All ranks.
    """
    if config.compile:
        # A variant for each of: last block or not, gradients or not, each kind of picture size and batch.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_VARIANTS)
    for block in model.transformer_blocks:
        if config.activation_checkpointing:
            block.forward = _checkpointed(block.forward)
        if config.compile:
            # The forward method and not the module: FSDP's hooks stay outside.
            block.forward = torch.compile(block.forward, fullgraph=True)
    if mesh.size() == 1 and config.dtype == "float32":
        return
    half = config.dtype != "float32"
    policy = MixedPrecisionPolicy(
        param_dtype=config.torch_dtype if half else None,
        reduce_dtype=torch.float32 if half else None,
        # Timesteps are numbers up to 1000: in bfloat16 737 would become 736. The hook casts all other inputs.
        cast_forward_inputs=False,
    )
    for block in model.transformer_blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=config.reshard_after_forward)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=config.reshard_after_forward)
    model.register_forward_pre_hook(_cast_inputs_to(config.torch_dtype), with_kwargs=True)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def recomputed(**inputs: Any) -> Any:
        return checkpoint(forward, use_reentrant=False, **inputs)

    return recomputed


def _cast_inputs_to(dtype: torch.dtype) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    def cast(_: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {name: value.to(dtype) if name in _CAST_ARGUMENTS else value for name, value in inputs.items()}

    return cast

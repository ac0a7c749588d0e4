"""Fused GroupNorm and SiLU for channels-last activations on a GPU.

torch's CUDA GroupNorm reads and writes channels first (torch 2.11): between two channels-last convolutions it costs a
transposition before and one after, and SiLU another pass. Counted, that is 9 passes over the activations for each pair,
4.3 GB for a 512 px image in Stable Diffusion 3's autoencoder. Compiled here they are 3: one for the moments, one to
read and one to write.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

_log = logging.getLogger(__name__)

_Function = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int, float], torch.Tensor]


def group_norm_silu(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, num_groups: int, eps: float
) -> torch.Tensor:
    """SiLU of GroupNorm, computed in float32.

    Args:
        inputs: [B, C, H, W], channels last.
        weight: [C].
        bias: [C].
        num_groups: Divides C.
        eps: Added to the variance.

    Returns:
        [B, C, H, W] in the dtype of `inputs`, channels last.
    """
    batch, channels, height, width = inputs.shape
    values = inputs.permute(0, 2, 3, 1).reshape(batch, height * width, channels).float()
    # By channel first: channels are what lies side by side. The variance of a group is the mean of its channels'
    # variances and the variance of their means.
    variances, means = torch.var_mean(values, dim=1, correction=0)
    means, variances = (found.view(batch, num_groups, -1) for found in (means, variances))
    mean = means.mean(-1, keepdim=True)
    scale = (variances.mean(-1, keepdim=True) + (means - mean).square().mean(-1, keepdim=True) + eps).rsqrt()
    factor = scale.expand_as(means).reshape(batch, 1, channels) * weight.float()
    offset = bias.float() - mean.expand_as(means).reshape(batch, 1, channels) * factor
    out = nn.functional.silu(values * factor + offset).to(inputs.dtype)
    return out.view(batch, height, width, channels).permute(0, 3, 1, 2)


class GroupNormSilu(nn.Module):
    """A GroupNorm and the SiLU that follows it."""

    def __init__(self, norm: nn.GroupNorm, function: _Function) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self._num_groups, self._eps = norm.num_groups, norm.eps
        self._function = function

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """SiLU of the normalized inputs."""
        return self._function(inputs, self.weight, self.bias, self._num_groups, self._eps)


def fuse_group_norms(encoder: nn.Module) -> None:
    """Replaces each GroupNorm that SiLU follows in diffusers' `Encoder` by one compiled function.

    Where compiling fails, as without a C compiler, or changes values, the encoder stays as it is, with a warning.

    Args:
        encoder: Channels last, on its device.
    """
    # diffusers' own modules, whose attributes nn.Module does not declare.
    whole = cast("Any", encoder)
    blocks: list[Any] = [module for module in encoder.modules() if isinstance(module, ResnetBlock2D)]
    if not all(isinstance(module, nn.SiLU) for module in (whole.conv_act, *(block.nonlinearity for block in blocks))):
        return
    function = _compiled([whole.conv_norm_out, *(norm for block in blocks for norm in (block.norm1, block.norm2))])
    if function is None:
        return
    whole.conv_norm_out, whole.conv_act = GroupNormSilu(whole.conv_norm_out, function), nn.Identity()
    for block in blocks:
        block.norm1, block.norm2 = GroupNormSilu(block.norm1, function), GroupNormSilu(block.norm2, function)
        block.nonlinearity = nn.Identity()


def _compiled(norms: list[nn.GroupNorm]) -> _Function | None:
    """Compiles two graphs for each number of channels: for batches of 1, and for all others of any height and width."""
    function = cast("_Function", torch.compile(group_norm_silu))
    try:
        for norm in {norm.num_channels: norm for norm in norms}.values():
            for batch in (1, 2):
                _compile(function, norm, batch)
    except Exception as error:  # torch.compile raises errors of many kinds
        _log.warning("goes on with torch's GroupNorm, which is slower: %s: %s", type(error).__name__, error)
        return None
    return function


@torch.inference_mode()
def _compile(function: _Function, norm: nn.GroupNorm, batch: int) -> None:
    """Compiles the function for an example and compares its values.

    Raises:
        ValueError: They are not those that it has when it is not compiled.
    """
    values = torch.randn(batch, norm.num_channels, 16, 24, generator=torch.Generator().manual_seed(0)) + 1
    # Made in inference mode, as all later inputs are; for others there would be graphs of their own.
    example = values.to(norm.weight.device, norm.weight.dtype, memory_format=torch.channels_last)
    for dimension in (0, 2, 3) if batch > 1 else (2, 3):
        torch._dynamo.mark_dynamic(example, dimension)
    # Otherwise it is symbolic from the second number on, and kernels load one value at a time.
    torch._dynamo.mark_static(example, 1)
    found = function(example, norm.weight, norm.bias, norm.num_groups, norm.eps)
    expected = group_norm_silu(example, norm.weight, norm.bias, norm.num_groups, norm.eps)
    if not torch.allclose(found.float(), expected.float(), rtol=0.02, atol=0.02):
        raise ValueError(f"values of {norm.num_channels} channels differ by {(found - expected).abs().max():.3g}")

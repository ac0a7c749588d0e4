"""Linear layers put together from several, as the towers want them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def joined(layers: Sequence[nn.Linear]) -> nn.Linear:
    """One layer that gives the outputs of several, one after the other: one product instead of one each."""
    weights: list[torch.Tensor] = [layer.weight for layer in layers]
    biases: list[torch.Tensor | None] = [layer.bias for layer in layers]
    there = [bias for bias in biases if bias is not None]
    assert len(there) in (0, len(layers))
    return linear(torch.cat(weights), torch.cat(there) if there else None)


def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """A frozen layer of these values.

    Args:
        weight: [out, in].
        bias: [out].
    """
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer

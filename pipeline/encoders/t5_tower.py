"""T5's encoder over packed captions.

The mathematics of `transformers.T5EncoderModel`, with its weights: pre-norm layers of attention with a bias by relative
position, and of a gated or plain MLP. The bias is built once, for the longest caption there can be.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.encoders.attention import DistanceBias
from pipeline.encoders.base import EncoderOutput, Tower
from pipeline.encoders.operations import Activation, Operations
from pipeline.encoders.packed import PackedTokens


class RmsNorm(nn.Module):
    """T5's norm: no mean, no shift.

    Args:
        weight: [D].
        eps: Added to the mean square.
        operations: Implementations.
    """

    def __init__(self, weight: torch.Tensor, eps: float, operations: Operations) -> None:
        super().__init__()
        self._weight = weight
        self._eps = eps
        self._operations = operations

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normed over the last dimension."""
        return self._operations.rms_norm(hidden, self._weight, self._eps)


class T5Layer(nn.Module):
    """One layer. Takes over the modules it is given.

    Args:
        norm_1: Before attention.
        qkv: Projects to queries, keys and values, [3 * H * C].
        out: Projects attention's output.
        norm_2: Before the MLP.
        wi: Into the MLP; twice its width where it is gated, the gate first.
        gate: Between the MLP's two projections: [N, F or 2 * F] to [N, F].
        wo: Out of the MLP.
        heads: Attention heads.
        operations: Implementations.
    """

    def __init__(
        self,
        norm_1: RmsNorm,
        qkv: nn.Module,
        out: nn.Module,
        norm_2: RmsNorm,
        wi: nn.Module,
        gate: Activation,
        wo: nn.Module,
        heads: int,
        operations: Operations,
    ) -> None:
        super().__init__()
        self.norm_1, self.qkv, self.out = norm_1, qkv, out
        self.norm_2, self.wi, self.wo = norm_2, wi, wo
        self._gate = gate
        self._heads = heads
        self._operations = operations

    def forward(self, hidden_ND: torch.Tensor, packed: PackedTokens, bias: DistanceBias) -> torch.Tensor:
        """All tokens. Changes `hidden_ND`."""
        qkv_N3HC = self.qkv(self.norm_1(hidden_ND)).view(len(hidden_ND), 3, self._heads, -1)
        # T5 does not scale its scores.
        mixed_ND = self._operations.attention.within_captions(qkv_N3HC, packed, bias=bias, scale=1.0)
        hidden_ND = _added(self.out, mixed_ND, hidden_ND)
        return _added(self.wo, self._gate(self.wi(self.norm_2(hidden_ND))), hidden_ND)


class T5Tower(Tower):
    """The whole encoder.

    Args:
        embedding: [vocabulary, D].
        layers: In order.
        final_norm: After them.
        bias: Of the scores, for every distance in the longest caption.
        operations: Implementations.
    """

    def __init__(
        self,
        embedding: torch.Tensor,
        layers: Sequence[T5Layer],
        final_norm: RmsNorm,
        bias: DistanceBias,
        operations: Operations,
    ) -> None:
        super().__init__(operations)
        self._embedding = embedding
        self.layers = nn.ModuleList(layers)
        self.final_norm = final_norm
        self._bias = bias

    def forward(self, packed: PackedTokens) -> EncoderOutput:
        """Normed states of all tokens after the last layer."""
        hidden_ND = F.embedding(packed.token_ids, self._embedding)
        for layer in self.layers:
            hidden_ND = layer(hidden_ND, packed, self._bias)
        return EncoderOutput(hidden=self.final_norm(hidden_ND[: packed.num_tokens]), pooled=None, eos=None)


def _added(layer: nn.Module, inputs: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """`residual + layer(inputs)`, in the product itself where that is a plain one; T5's have no biases."""
    if isinstance(layer, nn.Linear):
        return residual.addmm_(inputs, layer.weight.t())
    return residual.add_(layer(inputs))

"""T5's encoder over packed captions.

The mathematics of `transformers.T5EncoderModel`, with its weights: pre-norm layers of attention with a bias by relative
position, and of a gated or plain MLP. The bias is built once, for the longest caption there can be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.encoders.attention import attend
from pipeline.encoders.base import EncoderOutput
from pipeline.encoders.packed import PackedTokens

_ALIGNED = 8


class RmsNorm(nn.Module):
    """T5's norm: no mean, no shift.

    Args:
        weight: [D].
        eps: Added to the mean square.
    """

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__()
        self._weight = weight
        self._eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normed over the last dimension."""
        return F.rms_norm(hidden, self._weight.shape, self._weight, self._eps)


class T5Layer(nn.Module):
    """One layer. Takes over the modules it is given.

    Args:
        qkv: Projects to queries, keys and values, [3 * H * C].
        wi: Into the MLP; twice its width where it is gated, the gate first.
        gate: Between the MLP's two projections: [N, F or 2 * F] to [N, F].
        heads: Attention heads.
    """

    def __init__(
        self,
        norm_1: RmsNorm,
        qkv: nn.Module,
        out: nn.Module,
        norm_2: RmsNorm,
        wi: nn.Module,
        gate: Callable[[torch.Tensor], torch.Tensor],
        wo: nn.Module,
        heads: int,
    ) -> None:
        super().__init__()
        self.norm_1, self.qkv, self.out = norm_1, qkv, out
        self.norm_2, self.wi, self.wo = norm_2, wi, wo
        self._gate = gate
        self._heads = heads

    def forward(self, hidden_ND: torch.Tensor, packed: PackedTokens, bias_HLL: torch.Tensor) -> torch.Tensor:
        """All tokens. Changes `hidden_ND`."""
        qkv_N3HC = self.qkv(self.norm_1(hidden_ND)).view(len(hidden_ND), 3, self._heads, -1)
        # T5 does not scale its scores.
        hidden_ND = _added(self.out, attend(qkv_N3HC, packed, bias_HLL=bias_HLL, scale=1.0), hidden_ND)
        return _added(self.wo, self._gate(self.wi(self.norm_2(hidden_ND))), hidden_ND)


class T5Tower(nn.Module):
    """The whole encoder.

    Args:
        embedding: [vocabulary, D].
        layers: In order.
        final_norm: After them.
        bias_HLL: Of the scores, for every distance in the longest caption.
    """

    def __init__(
        self, embedding: torch.Tensor, layers: Sequence[T5Layer], final_norm: RmsNorm, bias_HLL: torch.Tensor
    ) -> None:
        super().__init__()
        self._embedding = embedding
        self.layers = nn.ModuleList(layers)
        self.final_norm = final_norm
        self._bias_HLL = _aligned(bias_HLL)

    def forward(self, packed: PackedTokens) -> EncoderOutput:
        """Normed states of all tokens after the last layer."""
        hidden_ND = F.embedding(packed.token_ids, self._embedding)
        for layer in self.layers:
            hidden_ND = layer(hidden_ND, packed, self._bias_HLL)
        return EncoderOutput(hidden=self.final_norm(hidden_ND[: packed.num_tokens]), pooled=None, eos=None)


def gated_by(activation: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The gate of a gated MLP."""

    def gate(both: torch.Tensor) -> torch.Tensor:
        gates, values = both.chunk(2, dim=-1)
        return activation(gates) * values

    return gate


def _added(layer: nn.Module, inputs: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """`residual + layer(inputs)`, in the product itself where that is a plain one; T5's have no biases."""
    if isinstance(layer, nn.Linear):
        return residual.addmm_(inputs, layer.weight.t())
    return residual.add_(layer(inputs))


def _aligned(bias_HLL: torch.Tensor) -> torch.Tensor:
    """In memory whose rows begin at multiples of 16 bytes, which CUDA's memory-efficient attention asks for."""
    length = bias_HLL.shape[-1]
    padded = F.pad(bias_HLL, (0, -length % _ALIGNED))
    return padded[..., :length]

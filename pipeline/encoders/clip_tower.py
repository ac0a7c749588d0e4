"""CLIP's text tower over packed captions.

The mathematics of `transformers.CLIPTextModelWithProjection` and `open_clip.transformer.TextTransformer`, with their
weights: layers of pre-norm causal attention and MLP. Two things are left out since nothing stored depends on them: the
last layer for tokens other than EOS, and separate projections of queries, keys and values.

A norm is computed together with the residual sum before it, so a layer ends with the first norm of the next layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.encoders.base import EncoderOutput, Tower
from pipeline.encoders.operations import Activation, Operations
from pipeline.encoders.packed import PackedTokens, round_up_size

_EOS_STEP = 32
"""The captions of a batch are filled up to a multiple of this where only their EOS is computed."""


class ClipLayer(nn.Module):
    """One layer. Takes over the modules it is given.

    Args:
        norm_1: Before attention.
        qkv: Projects to queries, keys and values, [3 * D].
        out: Projects attention's output.
        norm_2: Before the MLP.
        fc_1: Into the MLP.
        fc_2: Out of it.
        heads: Attention heads.
        activation: Of the MLP.
        operations: Implementations.
    """

    def __init__(
        self,
        norm_1: nn.LayerNorm,
        qkv: nn.Linear,
        out: nn.Linear,
        norm_2: nn.LayerNorm,
        fc_1: nn.Linear,
        fc_2: nn.Linear,
        heads: int,
        activation: Activation,
        operations: Operations,
    ) -> None:
        super().__init__()
        self.norm_1, self.qkv, self.out = norm_1, qkv, out
        self.norm_2, self.fc_1, self.fc_2 = norm_2, fc_1, fc_2
        self._heads = heads
        self._activation = activation
        self._operations = operations

    def forward(
        self, hidden_ND: torch.Tensor, normed_ND: torch.Tensor, packed: PackedTokens, next_norm: nn.LayerNorm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All tokens.

        Args:
            hidden_ND: Residual stream before the layer.
            normed_ND: `norm_1` of it.
            packed: The batch.
            next_norm: The next layer's first norm.

        Returns:
            The residual stream after the layer, and `next_norm` of it.
        """
        qkv_N3HC = self.qkv(normed_ND).view(len(normed_ND), 3, self._heads, -1)
        scale = qkv_N3HC.shape[-1] ** -0.5
        mixed_ND = self._operations.attention.within_captions(qkv_N3HC, packed, bias=None, scale=scale)
        return self._finish(hidden_ND, mixed_ND, next_norm)

    def at_eos(
        self, hidden_ND: torch.Tensor, normed_ND: torch.Tensor, packed: PackedTokens, next_norm: nn.LayerNorm
    ) -> torch.Tensor:
        """`next_norm` of what `forward` gives at each EOS.

        Returns:
            [F, D]. F is the number of captions, filled up to one of few: every new size of a product costs memory.
        """
        width = hidden_ND.shape[1]
        weight, bias = self.qkv.weight, self.qkv.bias
        num_captions = len(packed.eos)
        eos_F = F.pad(packed.eos, (0, round_up_size(num_captions, _EOS_STEP) - num_captions))
        q_FHC = F.linear(normed_ND[eos_F], weight[:width], bias[:width]).unflatten(1, (self._heads, -1))
        kv_N2HC = F.linear(normed_ND, weight[width:], bias[width:]).view(len(hidden_ND), 2, self._heads, -1)
        mixed_FD = self._operations.attention.from_eos(q_FHC, kv_N2HC, packed)
        return self._finish(hidden_ND[eos_F], mixed_FD, next_norm)[1]

    def _finish(
        self, hidden: torch.Tensor, mixed: torch.Tensor, next_norm: nn.LayerNorm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, normed = self._add_norm(hidden, self.out(mixed), self.norm_2)
        return self._add_norm(hidden, self.fc_2(self._activation(self.fc_1(normed))), next_norm)

    def _add_norm(
        self, residual: torch.Tensor, update: torch.Tensor, norm: nn.LayerNorm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._operations.add_layer_norm(residual, update, norm.weight, norm.bias, norm.eps)


class ClipTower(Tower):
    """The whole tower.

    Args:
        token_embedding: [vocabulary, D].
        position_embedding: [positions, D].
        layers: At least two.
        final_norm: Before the projection.
        projection: [D, P].
        operations: Implementations.
    """

    def __init__(
        self,
        token_embedding: torch.Tensor,
        position_embedding: torch.Tensor,
        layers: Sequence[ClipLayer],
        final_norm: nn.LayerNorm,
        projection: torch.Tensor,
        operations: Operations,
    ) -> None:
        super().__init__(operations)
        self._token_embedding, self._position_embedding = token_embedding, position_embedding
        self.layers = nn.ModuleList(layers)
        self.final_norm = final_norm
        self._projection = projection

    def forward(self, packed: PackedTokens) -> EncoderOutput:
        """Penultimate states of all tokens; normed and projected state of EOS."""
        hidden_ND = F.embedding(packed.token_ids, self._token_embedding)
        places_ND = F.embedding(packed.positions, self._position_embedding)
        layers: list[ClipLayer] = list(self.layers)  # type: ignore[arg-type]  # a ModuleList has no type of its modules
        norms = [*(layer.norm_1 for layer in layers), self.final_norm]
        first = norms[0]
        hidden_ND, normed_ND = self.operations.add_layer_norm(hidden_ND, places_ND, first.weight, first.bias, first.eps)
        for layer, next_norm in zip(layers[:-1], norms[1:-1], strict=True):
            hidden_ND, normed_ND = layer(hidden_ND, normed_ND, packed, next_norm)
        eos_FD = layers[-1].at_eos(hidden_ND, normed_ND, packed, self.final_norm)
        pooled_FP, num_captions = eos_FD @ self._projection, len(packed.eos)
        hidden_ND = hidden_ND[: packed.num_tokens]
        return EncoderOutput(hidden=hidden_ND, pooled=pooled_FP[:num_captions], eos=eos_FD[:num_captions])

"""CLIP's text tower over packed captions.

The mathematics of `transformers.CLIPTextModelWithProjection` and `open_clip.transformer.TextTransformer`, with their
weights: layers of pre-norm causal attention and MLP. Two things are left out since nothing stored depends on them: the
last layer for tokens other than EOS, and projections one by one of queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.encoders.attention import attend, attend_from_eos
from pipeline.encoders.base import EncoderOutput
from pipeline.encoders.packed import PackedTokens

Activation = Callable[[torch.Tensor], torch.Tensor]

_EOS_STEP = 32
"""The captions of a batch are filled up to a multiple of this where only their EOS is computed."""


class ClipLayer(nn.Module):
    """One layer. Takes over the modules it is given.

    Args:
        qkv: Projects to queries, keys and values, [3 * D].
        heads: Attention heads.
        activation: Of the MLP.
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
    ) -> None:
        super().__init__()
        self.norm_1, self.qkv, self.out = norm_1, qkv, out
        self.norm_2, self.fc_1, self.fc_2 = norm_2, fc_1, fc_2
        self._heads = heads
        self._activation = activation

    def forward(self, hidden_ND: torch.Tensor, packed: PackedTokens) -> torch.Tensor:
        """All tokens."""
        qkv_N3HC = self.qkv(self.norm_1(hidden_ND)).view(len(hidden_ND), 3, self._heads, -1)
        return self._mlp(hidden_ND + self.out(attend(qkv_N3HC, packed)))

    def at_eos(self, hidden_ND: torch.Tensor, packed: PackedTokens) -> torch.Tensor:
        """[F, D], what `forward` gives at each EOS. F is B filled up: every new size of a product costs memory."""
        normed_ND, width = self.norm_1(hidden_ND), hidden_ND.shape[1]
        weight, bias = self.qkv.weight, self.qkv.bias
        eos_F = F.pad(packed.eos, (0, -len(packed.eos) % _EOS_STEP))
        q_FHC = F.linear(normed_ND[eos_F], weight[:width], bias[:width]).unflatten(1, (self._heads, -1))
        kv_N2HC = F.linear(normed_ND, weight[width:], bias[width:]).view(len(hidden_ND), 2, self._heads, -1)
        return self._mlp(hidden_ND[eos_F] + self.out(attend_from_eos(q_FHC, kv_N2HC, packed)))

    def _mlp(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.fc_2(self._activation(self.fc_1(self.norm_2(hidden))))


class ClipTower(nn.Module):
    """The whole tower.

    Args:
        token_embedding: [vocabulary, D].
        position_embedding: [positions, D].
        layers: At least two.
        final_norm: Before the projection.
        projection: [D, P].
    """

    def __init__(
        self,
        token_embedding: torch.Tensor,
        position_embedding: torch.Tensor,
        layers: Sequence[ClipLayer],
        final_norm: nn.LayerNorm,
        projection: torch.Tensor,
    ) -> None:
        super().__init__()
        self._token_embedding, self._position_embedding = token_embedding, position_embedding
        self.layers = nn.ModuleList(layers)
        self.final_norm = final_norm
        self._projection = projection

    def forward(self, packed: PackedTokens) -> EncoderOutput:
        """Penultimate states of all tokens; normed and projected state of EOS."""
        hidden_ND = F.embedding(packed.token_ids, self._token_embedding)
        hidden_ND = hidden_ND + F.embedding(packed.positions, self._position_embedding)
        *before, last = self.layers
        for layer in before:
            hidden_ND = layer(hidden_ND, packed)
        assert isinstance(last, ClipLayer)
        eos_FD = self.final_norm(last.at_eos(hidden_ND, packed))
        pooled_FP, num_captions = eos_FD @ self._projection, len(packed.eos)
        hidden_ND = hidden_ND[: packed.num_tokens]
        return EncoderOutput(hidden=hidden_ND, pooled=pooled_FP[:num_captions], eos=eos_FD[:num_captions])

"""Attention over packed captions, in two implementations: torch's, one call a run of equal lengths; Triton's, one call.

Letters of shapes: N tokens, B captions, F queries (B and what fills up their number), H heads, C channels of a head, L
tokens of the longest caption, S = 2 * L - 1 distances; R and T, captions and tokens of a run.
"""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F

from pipeline.encoders.packed import PackedTokens

_ALIGNED = 8


class DistanceBias:
    """Attention bias that depends on the distance between two tokens alone, as T5's does.

    Args:
        matrix_HLL: Bias by head, query and key, for the longest caption there can be.
    """

    def __init__(self, matrix_HLL: torch.Tensor) -> None:
        # From the most negative distance, key minus query, to the largest: the last row's, then the first row's.
        self.by_distance_HS = torch.cat([matrix_HLL[:, -1, :-1], matrix_HLL[:, 0]], dim=1).contiguous()

    @cached_property
    def matrix_HLL(self) -> torch.Tensor:
        """[H, L, L], its rows aligned to 16 bytes, which CUDA's memory-efficient attention asks for."""
        length = (self.by_distance_HS.shape[1] + 1) // 2
        # Row i begins at distance -i. Rows of a window that slides over the distances, the last row first.
        rows_HLL = self.by_distance_HS.unfold(1, length, 1).flip(1)
        return F.pad(rows_HLL, (0, -length % _ALIGNED))[..., :length]


class Attention(Protocol):
    """An implementation of attention over packed captions.

    Attributes:
        name: For the record of a run.
    """

    name: str

    def within_captions(
        self, qkv_N3HC: torch.Tensor, packed: PackedTokens, *, bias: DistanceBias | None, scale: float
    ) -> torch.Tensor:
        """Attention of every token to the tokens of its own caption.

        Args:
            qkv_N3HC: Queries, keys and values; contiguous.
            packed: The batch.
            bias: Added to the scores; None: causal attention without one.
            scale: Of the scores.

        Returns:
            [N, H * C], zero past the last caption.
        """

    def from_eos(self, q_FHC: torch.Tensor, kv_N2HC: torch.Tensor, packed: PackedTokens) -> torch.Tensor:
        """Causal attention from each caption's EOS alone, scores scaled by C ** -0.5.

        Args:
            q_FHC: Queries of the B captions, and what fills up their number.
            kv_N2HC: Keys and values; contiguous.
            packed: The batch.

        Returns:
            [F, H * C]; finite past the last caption.
        """


class TorchAttention:
    """`scaled_dot_product_attention`, one dense call for each run of equally long captions."""

    name = "torch"

    def within_captions(
        self, qkv_N3HC: torch.Tensor, packed: PackedTokens, *, bias: DistanceBias | None, scale: float
    ) -> torch.Tensor:
        """See `Attention`."""
        num_tokens, _, heads, channels = qkv_N3HC.shape
        out_NHC = qkv_N3HC.new_empty(num_tokens, heads, channels)
        for run, tokens, _ in packed.slices():
            q, k, v = qkv_N3HC[tokens].view(run.num_rows, run.length, 3, heads, channels).permute(2, 0, 3, 1, 4)
            mask = None
            if bias is not None:
                # The bias depends on distances alone, so a shorter caption's is the corner of the longest one's.
                mask = bias.matrix_HLL[:, : run.length, : run.length].expand(run.num_rows, -1, -1, -1)
            found_RHTC = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
            out_NHC[tokens].view(run.num_rows, run.length, heads, channels).copy_(found_RHTC.transpose(1, 2))
        out_NHC[packed.num_tokens :] = 0
        return out_NHC.view(num_tokens, heads * channels)

    def from_eos(self, q_FHC: torch.Tensor, kv_N2HC: torch.Tensor, packed: PackedTokens) -> torch.Tensor:
        """See `Attention`."""
        _, _, heads, channels = kv_N2HC.shape
        out_FHC = torch.empty_like(q_FHC)
        for run, tokens, rows in packed.slices():
            k, v = kv_N2HC[tokens].view(run.num_rows, run.length, 2, heads, channels).permute(2, 0, 3, 1, 4)
            last_R1 = packed.positions[packed.eos[rows]][:, None]
            seen_RT = packed.positions[tokens].view(run.num_rows, run.length) <= last_R1
            found_RH1C = F.scaled_dot_product_attention(q_FHC[rows, :, None], k, v, attn_mask=seen_RT[:, None, None])
            out_FHC[rows] = found_RH1C[:, :, 0]
        out_FHC[len(packed.eos) :] = 0
        return out_FHC.view(len(q_FHC), heads * channels)


class TritonAttention:
    """Our kernel on CUDA: one launch for a batch, whatever the lengths of its captions."""

    name = "triton"

    def __init__(self) -> None:
        # Here, since torch for other processors comes without Triton.
        from pipeline.encoders import kernels

        self._attention = kernels.attention
        self._supports_heads = kernels.supports_heads

    def supports(self, channels: int) -> bool:
        """Whether heads may have so many channels."""
        return self._supports_heads(channels)

    def within_captions(
        self, qkv_N3HC: torch.Tensor, packed: PackedTokens, *, bias: DistanceBias | None, scale: float
    ) -> torch.Tensor:
        """See `Attention`."""
        table_HS = None if bias is None else bias.by_distance_HS
        stops = packed.causal_stops if bias is None else packed.stops
        q, k, v = qkv_N3HC.unbind(1)
        return self._attention(q, k, v, packed.starts, stops, scale=scale, bias_HS=table_HS).flatten(1)

    def from_eos(self, q_FHC: torch.Tensor, kv_N2HC: torch.Tensor, packed: PackedTokens) -> torch.Tensor:
        """See `Attention`."""
        # The last caption's stands for what fills up the number: any other would make its neighbours' block long.
        eos_F = torch.cat([packed.eos, packed.eos[-1:].expand(len(q_FHC) - len(packed.eos))])
        starts, stops = packed.starts[eos_F], packed.causal_stops[eos_F]
        k, v = kv_N2HC.unbind(1)
        return self._attention(q_FHC, k, v, starts, stops, scale=q_FHC.shape[2] ** -0.5).flatten(1)

"""Attention over packed captions: one dense call for each run of equally long ones.

Letters of shapes: N tokens, B captions, F these and what fills up their number, H heads, C channels of a head; R and L,
captions and tokens of a run.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pipeline.encoders.packed import PackedTokens


def attend(
    qkv_N3HC: torch.Tensor, packed: PackedTokens, *, bias_HLL: torch.Tensor | None = None, scale: float | None = None
) -> torch.Tensor:
    """Every token to the tokens of its own caption.

    Args:
        qkv_N3HC: Queries, keys and values.
        bias_HLL: Added to the scores, for lengths up to its own; None: causal attention without one.
        scale: Of the scores; None: C ** -0.5.

    Returns:
        [N, H * C], zero past the last caption.
    """
    num_tokens, _, heads, width = qkv_N3HC.shape
    out_NHC = qkv_N3HC.new_empty(num_tokens, heads, width)
    for run, tokens, _ in packed.slices():
        q, k, v = qkv_N3HC[tokens].view(run.num_rows, run.length, 3, heads, width).permute(2, 0, 3, 1, 4)
        # Built once for the longest: the bias depends on distances alone, so a shorter caption's is its corner.
        corner = None if bias_HLL is None else bias_HLL[:, : run.length, : run.length]
        mask = None if corner is None else corner.expand(run.num_rows, -1, -1, -1)
        found_RHLC = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
        out_NHC[tokens].view(run.num_rows, run.length, heads, width).copy_(found_RHLC.transpose(1, 2))
    out_NHC[packed.num_tokens :] = 0
    return out_NHC.view(num_tokens, heads * width)


def attend_from_eos(q_FHC: torch.Tensor, kv_N2HC: torch.Tensor, packed: PackedTokens) -> torch.Tensor:
    """Causal attention from each caption's EOS alone.

    Args:
        q_FHC: Queries of the B captions, and what fills up their number.
        kv_N2HC: Keys and values.
        packed: The batch.

    Returns:
        [F, H * C], zero past the last caption.
    """
    _, _, heads, width = kv_N2HC.shape
    out_FHC = torch.empty_like(q_FHC)
    for run, tokens, rows in packed.slices():
        k, v = kv_N2HC[tokens].view(run.num_rows, run.length, 2, heads, width).permute(2, 0, 3, 1, 4)
        seen_RL = packed.positions[tokens].view(run.num_rows, run.length) <= packed.positions[packed.eos[rows]][:, None]
        found_RH1C = F.scaled_dot_product_attention(q_FHC[rows, :, None], k, v, attn_mask=seen_RL[:, None, None])
        out_FHC[rows] = found_RH1C[:, :, 0]
    out_FHC[len(packed.eos) :] = 0
    return out_FHC.view(len(q_FHC), heads * width)

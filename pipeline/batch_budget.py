"""Measures the largest number of tokens that a batch may have in the device's memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from pipeline.encoders import TextEncoder

_PROBE_TOKENS = 4096
_MOST_TOKENS = 65_536
"""Products of this size are as fast as they get, and windows seldom hold more."""
_SHARE = 0.6
"""Of the free memory: the allocator does not fill every gap, and two windows' outputs wait there to be copied."""


def measured_batch_tokens(encoders: Mapping[str, TextEncoder], fallback: int) -> int:
    """Tokens of the largest batch that every encoder has memory for, a multiple of 1024.

    Args:
        encoders: On a GPU; on another device there is nothing to measure.
        fallback: For that.
    """
    device = next(iter(encoders.values())).device
    if device.type != "cuda":
        return fallback
    token_bytes = max(_peak_bytes_per_token(encoder) for encoder in encoders.values())
    torch.cuda.empty_cache()
    free_bytes, _ = torch.cuda.mem_get_info(device)
    found = int(_SHARE * free_bytes / token_bytes) // 1024 * 1024
    return max(1024, min(_MOST_TOKENS, found))


def _peak_bytes_per_token(encoder: TextEncoder) -> float:
    """Of one batch of captions as long as they can be."""
    length = encoder.identity.max_tokens
    num_rows = max(1, _PROBE_TOKENS // length)
    ids = [np.full(length, encoder.identity.eos_token_id, np.int32)] * num_rows
    torch.cuda.synchronize(encoder.device)
    torch.cuda.reset_peak_memory_stats(encoder.device)
    before = torch.cuda.memory_allocated(encoder.device)
    encoder.encode_packed(encoder.pack(ids))
    torch.cuda.synchronize(encoder.device)
    return (torch.cuda.max_memory_allocated(encoder.device) - before) / (num_rows * length)

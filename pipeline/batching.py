"""Which captions go through an encoder together.

Under padding `max_length` all captions are equally long and batches are just full. Under `none` a batch is as wide as
its longest caption, so captions are sorted by length and a batch closes when its padded size reaches the token budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.encoders import pad_token_ids
from schemas.identity import Padding


@dataclass(frozen=True)
class TokenBatch:
    """Captions padded to one width.

    Attributes:
        rows: int64 [B], which captions these are.
        token_ids: int64 [B, T], padded with the encoder's pad id, on the CPU.
        num_tokens: int64 [B], real tokens.
    """

    rows: npt.NDArray[np.int64]
    token_ids: torch.Tensor
    num_tokens: torch.Tensor

    @property
    def num_padded_tokens(self) -> int:
        """Tokens that are computed: B x T."""
        return self.token_ids.numel()


def batch_by_tokens(
    ids: Sequence[npt.NDArray[np.int32]], *, pad_id: int, max_tokens: int, padding: Padding, budget_tokens: int
) -> Iterator[TokenBatch]:
    """Splits captions into batches of at most `budget_tokens` padded tokens, at least one caption each.

    Args:
        ids: Token ids of each caption, unpadded, 1 to `max_tokens` of them.
        pad_id: The encoder's pad id.
        max_tokens: Width of every batch under "max_length".
        padding: "none" sorts by length, longest first, so that the largest batch is the first to be tried.
        budget_tokens: Bound on B x T.

    Yields:
        Batches that together hold every caption once. They depend on `ids` alone, so a second run computes the same.
    """
    lengths = np.array([len(one) for one in ids], np.int64)
    order = np.arange(len(ids)) if padding == "max_length" else np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        width = max_tokens if padding == "max_length" else int(lengths[order[start]])
        rows = order[start : start + max(1, budget_tokens // width)]
        chosen = [ids[row] for row in rows]
        yield TokenBatch(rows, *pad_token_ids(chosen, pad_id=pad_id, max_tokens=max_tokens, padding=padding))
        start += len(rows)

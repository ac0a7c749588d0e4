"""Which captions go through an encoder together.

Under padding `max_length` all captions are equally long and batches are just full. Under `none` a batch is as wide as
its longest caption, so captions are sorted by length and a batch closes when its padded size reaches the token budget.

Shapes are rounded up, widths to four tokens and rows to sixteen: kernels are compiled for each new shape, and kept.
With every shape that sorted captions can have, that was most of the memory a CPU worker grew by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.encoders import pad_token_ids
from schemas.identity import Padding

_WIDTH_STEP = 4
_ROWS_STEP = 16


@dataclass(frozen=True)
class TokenBatch:
    """Captions padded to one width.

    Attributes:
        rows: int64 [R], which captions these are; the first R of the batch. Any further ones fill up the shape.
        token_ids: int64 [B, T], padded with the encoder's pad id, on the CPU; B >= R.
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
    """Splits captions into batches of at most `budget_tokens` padded tokens, or of one caption.

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
        width = max_tokens
        if padding == "none":
            width = min(max_tokens, _rounded_up(int(lengths[order[start]]), _WIDTH_STEP))
        full = max(1, budget_tokens // width)
        rows = order[start : start + full]
        chosen = [ids[row] for row in rows]
        chosen += chosen[-1:] * (min(full, _rounded_up(len(rows), _ROWS_STEP)) - len(rows))
        yield TokenBatch(rows, *pad_token_ids(chosen, pad_id=pad_id, max_tokens=width, padding="max_length"))
        start += len(rows)


def _rounded_up(count: int, step: int) -> int:
    return -(-count // step) * step

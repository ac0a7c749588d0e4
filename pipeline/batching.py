"""Groups captions into batches of as many as a budget of tokens holds.

Captions that are encoded without padding are sorted by length, so that equally long ones are neighbours, which
torch's attention takes in one call (`encoders/packed.py`). A batch is then filled up to one of few numbers of tokens
(`round_up_size`): what libraries keep for each new size of a product was most of the memory that a CPU worker grew by.
Filling is one or two percent of a full batch, and all the padding there is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.encoders.packed import SIZE_STEP, largest_size
from schemas.identity import Padding


class Batches:
    """Splits captions into batches of at most so many tokens, or of one caption.

    Args:
        lengths: int64 [captions], tokens of each without padding, at least 1.
        padding: "none" sorts by length, longest first, so that what takes the most memory is tried first.
        max_tokens: What every caption is padded to under "max_length".

    Batches depend on the lengths and the budgets alone, so that a second run computes the same.
    """

    def __init__(self, lengths: npt.NDArray[np.int64], *, padding: Padding, max_tokens: int) -> None:
        if padding == "max_length":
            self._order = np.arange(len(lengths))
            lengths = np.full_like(lengths, max_tokens)
        else:
            self._order = np.argsort(-lengths, kind="stable")
        self._ends = np.cumsum(lengths[self._order])
        self._next = 0

    def take(self, budget_tokens: int) -> npt.NDArray[np.int64]:
        """The next batch's captions, at least one; none when all were taken.

        Args:
            budget_tokens: Bound on the batch's tokens, filling included.
        """
        before = int(self._ends[self._next - 1]) if self._next else 0
        room = max(largest_size(budget_tokens, SIZE_STEP), 1)
        stop = int(np.searchsorted(self._ends, before + room, side="right"))
        rows = self._order[self._next : max(stop, self._next + 1)]
        self._next += len(rows)
        return rows

    def put_back(self, rows: npt.NDArray[np.int64]) -> None:
        """Undoes the last `take`, which gave these."""
        self._next -= len(rows)

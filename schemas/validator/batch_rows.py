"""What checking a batch of any kind of group has in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.ledger import EncoderStats, LatentStats
from schemas.validator.codes import Code

Stats = EncoderStats | LatentStats


class Add(Protocol):
    """Takes a finding about one row of a part."""

    def __call__(self, code: Code, expected: str, actual: str, row: int, key: str | None) -> None:
        """`row` is counted in the shard."""


class BatchRows(Protocol):
    """Checks the batches of one part, in row order."""

    def check(self, batch: pa.RecordBatch, keys: Sequence[str], first_row: int) -> npt.NDArray[np.bool_]:
        """Checks one batch, whose first row is `first_row` of the shard; returns bool [rows], which are not null."""

    def stats(self) -> dict[str, Stats]:
        """What the rows so far add up to."""


def valid_rows(column: pa.Array) -> npt.NDArray[np.bool_]:
    """Which rows of a column are not null."""
    valid: npt.NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False).astype(bool)
    return valid


def indices(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Where a mask is True."""
    found: list[int] = np.flatnonzero(mask).tolist()
    return found

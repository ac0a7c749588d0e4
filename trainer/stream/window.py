"""Which positions the next global batch takes, and what becomes of an epoch's tail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tail = Literal["pad", "drop"]


@dataclass(frozen=True)
class Window:
    """A global batch.

    Attributes:
        start: Its first position.
        num_real: Positions in it; fewer than the batch has rows at a padded tail, 0 where a tail is dropped.
        next_position: The stream's state after it.
    """

    start: int
    num_real: int
    next_position: int


def window(position: int, num_samples: int, rows_per_epoch: int, tail: Tail) -> Window:
    """The batch at a position. A batch never straddles two epochs, so every epoch is exactly itself.

    Args:
        position: The stream's state.
        num_samples: Rows of a global batch.
        rows_per_epoch: Length of an epoch.
        tail: "pad" ends the epoch with a batch that is not full; "drop" leaves its samples out.
    """
    end = (position // rows_per_epoch + 1) * rows_per_epoch
    left = end - position
    if left >= num_samples:
        return Window(position, num_samples, position + num_samples)
    return Window(position, left if tail == "pad" else 0, end)

"""Two byte planes into 16-bit numbers, in one pass over memory.

A context is far larger than any cache, and NumPy needs two passes over it: measured on one core, it takes three to
four times as long as this loop, which numba compiles when it is first called.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt


@numba.njit(nogil=True)
def merge_two_planes(
    high: npt.NDArray[np.uint8],
    low: npt.NDArray[np.uint8],
    out: npt.NDArray[np.uint16],
    row: int,
    column: int,
    num_rows: int,
    width: int,
) -> None:
    """Writes a block of `out`, without holding Python's lock.

    Args:
        high: The block's most significant bytes, flat. What they are too short for stays as it is.
        low: Its least significant bytes, likewise.
        out: [R, C], contiguous: the compiler makes vector instructions of the inner loop only if it knows that.
        row: The block's first row.
        column: Its first column.
        num_rows: Its rows.
        width: Its columns.
    """
    for index in range(num_rows):
        # Slices of one row each: with indices into the whole, the loop stays scalar, at a quarter of the speed.
        first = index * width
        highs = high[first : first + width]
        lows = low[first : first + width]
        target = out[row + index, column : column + width]
        # No wider than what is there: compiled code does not check its indices.
        for place in range(min(highs.size, lows.size, target.size)):
            target[place] = (np.uint16(highs[place]) << np.uint16(8)) | np.uint16(lows[place])

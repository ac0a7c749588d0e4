"""Rows of many arrays, copied one after the other in one call.

A batch of 16 has 160 pieces. A NumPy copy of each takes longer to ask for than to carry out, and takes and gives
Python's lock every time, for which other threads then wait.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import numpy.typing as npt

_GROUP = 16
"""Arrays of a call: what is compiled is for a number of them."""

_NOTHING = np.frombuffer(b"", np.uint8)


def copy_pieces(
    sources: Sequence[npt.NDArray[np.uint8]],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint8],
) -> None:
    """Copies a piece of each source, one after the other, without holding Python's lock.

    Args:
        sources: [n], each contiguous and read-only.
        starts: int64 [n], where the pieces begin.
        sizes: int64 [n], bytes of each. What a source is too short for is left out of `out`.
        out: Flat; as many bytes as all sizes together.
    """
    sizes = np.ascontiguousarray(sizes, np.int64)
    ends = np.cumsum(sizes)
    for first in range(0, len(sources), _GROUP):
        group = tuple(sources[first : first + _GROUP])
        _copy_group(group + (_NOTHING,) * (_GROUP - len(group)), starts[first:], sizes[first:], ends[first:], out)


@numba.njit(nogil=True)
def _copy_group(
    sources: tuple[npt.NDArray[np.uint8], ...],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint8],
) -> None:
    for index in range(min(len(sources), sizes.size)):
        # Slices end where their array does: compiled code does not check indices.
        piece = sources[index][starts[index] : starts[index] + sizes[index]]
        target = out[ends[index] - sizes[index] : ends[index]]
        for place in range(min(piece.size, target.size)):
            target[place] = piece[place]

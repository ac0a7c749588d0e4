"""Pieces of memory, copied one after the other in one call.

A batch of 16 has 160 pieces. A NumPy copy of each takes longer to ask for than to carry out, and takes and gives
Python's lock every time, for which other threads then wait. Arrays of pieces would be looked at one by one by numba
before each call; addresses are numbers.
"""

from __future__ import annotations

import ctypes

import numba
import numpy as np
import numpy.typing as npt

_memmove = ctypes.CDLL(None).memmove
# Addresses as numbers: so numba passes them on.
_memmove.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t]
_memmove.restype = ctypes.c_size_t


@numba.njit(nogil=True)
def copy_pieces(
    addresses: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint8],
) -> None:
    """Copies a piece of each source, one after the other, without holding Python's lock.

    Args:
        addresses: int64 [n], where the sources are in memory; they must be there until this returns.
        lengths: int64 [n], bytes of each source.
        starts: int64 [n], where in its source each piece begins.
        sizes: int64 [n], bytes of each piece. What a source is too short for is left out of `out`.
        out: Flat; as many bytes as all pieces together. What it is too short for is left out too.
    """
    target = 0
    for index in range(min(addresses.size, lengths.size, starts.size, sizes.size)):
        start, size = max(0, starts[index]), max(0, sizes[index])
        there = min(size, lengths[index] - start, out.size - target)
        if there > 0:
            _memmove(out.ctypes.data + target, addresses[index] + start, there)
        target += size

"""Buffers under ZSTD: repetitions are searched for only where that pays.

A byte plane is noise of few values. Coding bytes by how often they occur (Huffman) finds all there is to find; what a
search for repeated strings finds takes more bytes to describe than it saves, and half of the time of decompressing.
Arrow's own ZSTD codec cannot leave the search out: docs/decisions/0009. Text and pictures do repeat, so a piece of each
buffer is tried both ways. Whoever reads sees ordinary ZSTD frames.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pyarrow as pa
import zstandard

_SAMPLE_BYTES: Final = 128 * 1024
"""What is tried both ways, of the buffer's middle: 32 tokens of T5's, 170 of CLIP-L's. ZSTD's blocks are as large."""

_LEAST_BYTES: Final = 64
"""Of what is tried at all: a frame's head takes some 10."""

_WORTH_A_SEARCH: Final = 0.95
"""Repetitions are searched for only where less than this is left, as describing them doubles the time of reading."""

_WORTH_COMPRESSING: Final = 0.99
"""Of the bytes; what would stay above is stored as it is, and read without a copy."""

_PARALLEL_BYTES: Final = 4 * 1024**2
"""Buffers of more than this together are worth handing to threads."""

_FREQUENCIES: Final = zstandard.ZstdCompressionParameters(
    # ZSTD cannot be told not to search. Strings of 7 bytes, the longest minimum there is, that meet in a table of 64
    # entries, the smallest there is, hardly ever occur in a plane.
    window_log=17,
    chain_log=6,
    hash_log=6,
    search_log=1,
    min_match=7,
    target_length=0,  # above 0, the fast strategy leaves Huffman's coding out
    strategy=zstandard.STRATEGY_FAST,
)


def compress(buffers: Sequence[memoryview]) -> list[bytes | None]:
    """Compresses buffers, if they are large in as many threads as Arrow may use.

    Args:
        buffers: Each contiguous.

    Returns:
        A ZSTD frame of each, with its size in its head; None for one that compressing would not make smaller.
    """
    threads = min(pa.cpu_count(), len(buffers))
    if threads > 1 and sum(map(len, buffers)) > _PARALLEL_BYTES:
        with ThreadPoolExecutor(threads) as pool:
            # The largest first: they are what the others would be waited for after.
            order = sorted(range(len(buffers)), key=lambda index: -len(buffers[index]))
            frames = dict(zip(order, pool.map(_frame, [buffers[index] for index in order]), strict=True))
        return [frames[index] for index in range(len(buffers))]
    return [_frame(buffer) for buffer in buffers]


class _Compressors(threading.local):
    """One thread's, as none must be used by two; making one takes as long as compressing 50 KB."""

    def __init__(self) -> None:
        self.frequencies = zstandard.ZstdCompressor(compression_params=_FREQUENCIES)
        self.repetitions = zstandard.ZstdCompressor(level=1)


_compressors = _Compressors()


def _frame(buffer: memoryview) -> bytes | None:
    if len(buffer) < _LEAST_BYTES:
        return None
    frequencies, repetitions = _compressors.frequencies, _compressors.repetitions
    begin = max(0, len(buffer) - _SAMPLE_BYTES) // 2
    sample = buffer[begin : begin + _SAMPLE_BYTES]
    search = len(repetitions.compress(sample)) < _WORTH_A_SEARCH * len(frequencies.compress(sample))
    frame = (repetitions if search else frequencies).compress(buffer)
    return frame if len(frame) < _WORTH_COMPRESSING * len(buffer) else None

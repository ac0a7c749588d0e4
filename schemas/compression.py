"""Buffers under ZSTD: repetitions are searched for only where that pays.

A byte plane is noise of few values. Coding bytes by how often they occur (Huffman) finds all there is to find; what a
search for repeated strings finds takes more bytes to describe than it saves, and half of the time of decompressing.
Arrow's own ZSTD codec cannot leave the search out: docs/decisions/0009. Text and pictures do repeat, so a piece of each
buffer is tried both ways. Whoever reads sees ordinary ZSTD frames.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, wait
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


def compress(buffers: Sequence[memoryview], helpers: Executor | None = None) -> list[bytes | None]:
    """Compresses buffers; the frames do not depend on the number of threads.

    Args:
        buffers: Each contiguous.
        helpers: A pool whose idle threads compress some of the buffers, if these are large. The calling thread may
            belong to it: it waits only for buffers that are being compressed, never for a thread to become idle.

    Returns:
        A ZSTD frame of each, with its size in its head; None for one that compressing would not make smaller.
    """
    if helpers is None or len(buffers) < 2 or sum(map(len, buffers)) <= _PARALLEL_BYTES:
        return [_frame(buffer) for buffer in buffers]
    # The largest first, so that no large one is left when the others are done.
    waiting = deque(sorted(enumerate(buffers), key=lambda one: -len(one[1])))
    frames: dict[int, bytes | None] = {}

    def work() -> None:
        while True:
            try:
                index, buffer = waiting.popleft()
            except IndexError:
                return
            frames[index] = _frame(buffer)

    helping = [helpers.submit(work) for _ in range(min(pa.cpu_count(), len(buffers)) - 1)]
    try:
        work()
    finally:
        # Calls that have not begun are cancelled. They stay in the pool's queue and must not keep buffers in memory.
        waiting.clear()
        wait([helper for helper in helping if not helper.cancel()])
    for helper in helping:
        if not helper.cancelled():
            helper.result()
    return [frames.pop(index) for index in range(len(buffers))]


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

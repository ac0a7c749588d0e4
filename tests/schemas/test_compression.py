"""How buffers are compressed: by frequencies, by repetitions, or not."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given

from schemas import compression
from schemas.compression import compress


def size(data: bytes) -> int:
    (frame,) = compress([memoryview(data)])
    assert frame is not None
    assert zstandard.ZstdDecompressor().decompress(frame) == data
    return len(frame)


def plane(num_tokens: int, width: int) -> bytes:
    """The high bytes of bfloat16, each channel with a scale of its own, as hidden states have."""
    random = np.random.default_rng(0)
    values = random.normal(size=(num_tokens, width)) * np.exp(0.4 * random.normal(size=width))
    return (values.astype(ml_dtypes.bfloat16).view(np.uint16) >> 8).astype(np.uint8).tobytes()


def by_arrow(data: bytes) -> int:
    return int(pa.Codec("zstd", compression_level=1).compress(data).size)


@given(st.lists(st.binary(max_size=3000) | st.builds(bytes.__mul__, st.binary(max_size=9), st.integers(0, 3000))))
def test_every_frame_decompresses_to_its_buffer(buffers: list[bytes]) -> None:
    for data, frame in zip(buffers, compress([memoryview(data) for data in buffers]), strict=True):
        if frame is not None:
            assert len(frame) < len(data)
            # Arrow's own decoder, which reads what we write.
            assert pa.Codec("zstd").decompress(frame, len(data)).to_pybytes() == data


def test_planes_take_less_than_with_a_search_for_repetitions() -> None:
    data = plane(400, 2048)
    assert size(data) < 0.96 * by_arrow(data)


def test_frames_of_planes_hold_hardly_any_repetition() -> None:
    """What takes the time of reading: without any, a frame is as long as its bytes' entropy, and its tables."""
    data = plane(400, 2048)
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    shares = counts[counts > 0] / len(data)
    entropy_bytes = -(shares * np.log2(shares)).sum() * len(data) / 8
    assert entropy_bytes < size(data) < 1.02 * entropy_bytes


def test_what_repeats_is_found() -> None:
    flat = b"\x7f" * 100_000 + plane(4, 2048)[:100] * 1000
    random = np.random.default_rng(0)
    words = [random.bytes(8).hex().encode() for _ in range(300)]
    text = b" ".join(words[number] for number in random.integers(len(words), size=20_000))
    assert size(flat) < 2000
    assert size(text) <= 1.01 * by_arrow(text)


def test_noise_and_what_is_tiny_are_left_alone() -> None:
    noise = np.random.default_rng(0).bytes(300_000)
    assert compress([memoryview(noise), memoryview(b""), memoryview(b"\0" * 16)]) == [None, None, None]


LARGE = [memoryview(plane(400, 4096)) for _ in range(4)]
"""Large enough to be shared among threads."""


def test_helpers_compress_the_same_at_the_same_time(
    threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads(4)
    expected, frame = compress(LARGE), compression._frame
    together = threading.Barrier(3, timeout=60)
    calls = itertools.count()

    def watched(buffer: memoryview) -> bytes | None:
        if next(calls) < 3:
            together.wait()  # for the other two
        return frame(buffer)

    monkeypatch.setattr(compression, "_frame", watched)
    with ThreadPoolExecutor(2) as pool:
        assert compress(LARGE, pool) == expected
    assert next(calls) == len(LARGE)


def test_a_full_pool_is_not_waited_for(threads: Callable[[int], None]) -> None:
    """All its threads may be encoding chunks that ask for help themselves."""
    threads(2)
    expected = compress(LARGE)
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(compress, LARGE, pool) for _ in range(6)]
        assert [future.result(60) for future in found] == [expected] * 6


@pytest.mark.parametrize("failing", [0, 3])
def test_a_helper_that_fails_is_heard(
    threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    threads(4)
    frame = compression._frame

    def fail(buffer: memoryview) -> bytes | None:
        if buffer is LARGE[failing]:
            raise MemoryError("no room")
        return frame(buffer)

    monkeypatch.setattr(compression, "_frame", fail)
    with ThreadPoolExecutor(2) as pool, pytest.raises(MemoryError, match="no room"):
        compress(LARGE, pool)


def test_a_call_for_help_that_came_too_late_keeps_no_buffer(threads: Callable[[int], None]) -> None:
    threads(4)
    let_go = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(let_go.wait, 60)
        array = np.frombuffer(bytearray(LARGE[0]), np.uint8)
        watched = weakref.ref(array)
        frames = compress([memoryview(array)] * 4, pool)
        del array
        assert watched() is None
        let_go.set()
    assert len(frames) == 4

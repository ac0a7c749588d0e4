"""How buffers are compressed: by frequencies, by repetitions, or not."""

from __future__ import annotations

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pyarrow as pa
import zstandard
from hypothesis import given

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

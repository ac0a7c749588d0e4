"""The engine on a GPU, as far as a CPU can tell: its streams, and values equal to the CPU's, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import schemas
from pipeline.encoded import EncodedWindow
from pipeline.engine import EncodeEngine
from pipeline.repeated_captions import RepeatedCaptions
from pipeline.shard_encoder import EngineSettings
from pipeline.sources import InputTar
from pipeline.windows import Window
from schemas.identity import ENCODER_NAMES, Padding, StorageDtype
from tests.pipeline.device_encoders import checked_device, on_device
from tests.pipeline.encoding import shard_encoder, small_encoders, write_tar

SETTINGS = EngineSettings(batch_tokens=256, window_bytes=1)


def tars(folder: Path) -> list[InputTar]:
    """Two, of 20 captions of many lengths, some of which repeat."""
    random = np.random.default_rng(0)
    captions = [" ".join(["word"] * int(n)) + f" {i % 7}" for i, n in enumerate(random.integers(1, 20, 20))]
    return [
        write_tar(folder / f"{name}.tar", [(f"{name}{i:02d}.txt", c.encode()) for i, c in enumerate(captions)])
        for name in "ab"
    ]


def stored(folder: Path) -> list[tuple[object, ...]]:
    """Every value of every row, as bytes."""
    found: list[tuple[object, ...]] = []
    for row in schemas.open_dataset(str(folder)).rows("txt"):
        found.append((row.key, row.caption, row.is_null))
        for name in ENCODER_NAMES:
            arrays = (row[name].hidden, row[name].pooled, row[name].eos)
            found += [(name, array.dtype, array.shape, array.tobytes()) for array in arrays if array is not None]
    return found


@pytest.mark.parametrize(
    ("padding", "dtype"), [("none", "bfloat16"), ("max_length", "bfloat16"), ("none", "float32"), ("none", "float16")]
)
def test_what_is_stored_is_what_a_cpu_stores(tmp_path: Path, padding: Padding, dtype: StorageDtype) -> None:
    listed, encoders = tars(tmp_path / "in"), small_encoders(padding, "float32", dtype)
    plain = shard_encoder(tmp_path / "in", tmp_path / "cpu", encoders, settings=SETTINGS)
    for tar in listed:
        plain.encode(tar, ["txt"], 1)
    with checked_device() as checker:
        shards = shard_encoder(tmp_path / "in", tmp_path / "gpu", on_device(encoders, checker), settings=SETTINGS)
        # Both in hand at the same time, as on a GPU's worker.
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda tar: shards.encode(tar, ["txt"], 1), listed))
        assert checker.kernels["t5"] >= 10, "several windows of each shard"
    found = stored(tmp_path / "gpu")
    assert len(found) == 40 * (1 + 3 + 3 + 1)
    assert found == stored(tmp_path / "cpu")


def windows(captions: Sequence[str], num_rows: int) -> list[Window]:
    encoders = small_encoders("none", "float32", "bfloat16")
    found = []
    for start in range(0, len(captions), num_rows):
        rows = list(captions[start : start + num_rows])
        tokens = {name: encoders[name].tokenizer(rows) for name in ENCODER_NAMES}
        found.append(Window([str(start + row) for row in range(len(rows))], rows, rows, tokens))
    return found


def hidden(window: EncodedWindow, row: int) -> bytes:
    found = window.rows[row]
    assert found is not None
    return b"".join(plane.tobytes() for name in ENCODER_NAMES for plane in found[name].hidden)


CAPTIONS = [f"caption {number} " + "word " * (number % 9) for number in range(24)]


def test_a_caption_that_is_held_keeps_its_values() -> None:
    """Its page-locked memory is not used again, however many windows come after it."""
    encoders = small_encoders("none", "float32", "bfloat16")
    with checked_device() as checker:
        engine = EncodeEngine(on_device(encoders, checker), 128)
        held, values = [], []
        for window in engine.encode(windows(CAPTIONS, 4), RepeatedCaptions((), 0)):
            held.append(window.rows[1])
            values.append(hidden(window, 1))
            assert window.counters.device_seconds > 0
            del window
        found = [b"".join(p.tobytes() for name in ENCODER_NAMES for p in one[name].hidden) for one in held if one]
    assert len(found) == 6
    assert found == values


def test_a_failed_batch_is_gone_when_the_cache_is_emptied() -> None:
    """Otherwise the memory it holds, which is what the next, smaller one needs, would stay in the cache."""
    encoders = small_encoders("none", "float32", "bfloat16")
    long = windows([f"{number} " + "word " * 60 for number in range(24)], 24)
    with checked_device() as checker:
        engine = EncodeEngine(on_device(encoders, checker), 4096)
        checker.device_limit = 3 * 1024**2
        found = list(engine.encode(long, RepeatedCaptions((), 0)))
        assert engine.batch_tokens < 4096
        assert checker.emptied[0] == 0, "there was no batch before it"
    (plain,) = EncodeEngine(encoders, engine.batch_tokens).encode(long, RepeatedCaptions((), 0))
    assert [hidden(found[0], row) for row in range(24)] == [hidden(plain, row) for row in range(24)]


def test_budgets_are_measured_without_a_race() -> None:
    encoders = small_encoders("none", "float32", "bfloat16")
    with checked_device() as checker:
        checker.device_limit = 64 * 1024**2
        engine = EncodeEngine(on_device(encoders, checker))
        assert 1024 <= engine.batch_tokens < 65_536
        assert engine.batch_tokens % 1024 == 0
        (window,) = engine.encode(windows(CAPTIONS, 24), RepeatedCaptions((), 0))
        assert all(row is not None for row in window.rows)


def test_engines_share_the_side_stream_of_their_device() -> None:
    encoders = small_encoders("none", "float32", "bfloat16")
    with checked_device() as checker:
        before = checker.new_number()
        for _ in range(3):
            EncodeEngine(on_device(encoders, checker), 128)
        assert checker.new_number() - before == 2, "one stream, and nothing else, was made"
        assert torch.cuda.memory_allocated() == 0

"""Two shards in hand of one worker: the device has one at a time, and works while the other is read or written."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import schemas
from pipeline.encoded import EncodedWindow
from pipeline.engine import EncodeEngine
from pipeline.repeated_captions import RepeatedCaptions
from pipeline.shard_encoder import EngineSettings, ShardEncoder
from pipeline.sources import InputTar
from pipeline.turns import in_turn
from pipeline.windows import Window
from schemas.storage import Store
from tests.pipeline.encoding import shard_encoder, small_encoders, write_tar

WAIT_SECONDS = 60


def tars(folder: Path, num_rows: int = 12) -> list[InputTar]:
    return [
        write_tar(
            folder / f"{name}.tar",
            [(f"{name}{i:02d}.txt", b"caption %d of %s" % (i, name.encode())) for i in range(num_rows)],
        )
        for name in "abc"
    ]


def worker(tmp_path: Path, name: str) -> ShardEncoder:
    settings = EngineSettings(window_bytes=1)
    return shard_encoder(tmp_path / "in", tmp_path / name, small_encoders("none"), settings=settings)


def test_shards_in_hand_together_are_what_they_are_one_by_one(tmp_path: Path) -> None:
    listed = tars(tmp_path / "in")
    one_by_one, together = worker(tmp_path, "one"), worker(tmp_path, "two")
    alone = [one_by_one.encode(tar, ["txt"], 1) for tar in listed]
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(lambda tar: together.encode(tar, ["txt"], 1), listed))
    assert [result.counters.num_captions for result in both] == [12, 12, 12]
    assert [result.counters.num_tokens for result in both] == [result.counters.num_tokens for result in alone]
    assert together.live == {}
    left, right = (schemas.open_dataset(str(tmp_path / name)).rows("txt") for name in ("one", "two"))
    for one, other in zip(left, right, strict=True):
        assert (one.key, one.caption) == (other.key, other.caption)
        for name in ("clip_l", "clip_g", "t5"):
            assert np.array_equal(one[name].hidden, other[name].hidden)


def test_the_device_has_one_shard_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tars(tmp_path / "in")
    original = EncodeEngine.encode
    order: list[str] = []

    def watched(self: EncodeEngine, windows: Iterable[Window], repeated: RepeatedCaptions) -> Iterator[EncodedWindow]:
        for window in original(self, windows, repeated):
            order.append(window.keys[0][0])
            time.sleep(0.01)
            yield window

    monkeypatch.setattr(EncodeEngine, "encode", watched)
    shards = worker(tmp_path, "out")
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda tar: shards.encode(tar, ["txt"], 1), listed))
    changes = sum(before != after for before, after in itertools.pairwise(order))
    assert len(order) > 6
    assert changes == 2, order


def test_the_next_shard_is_computed_while_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shard a's record can only be stored once shard b's first window is encoded."""
    listed = tars(tmp_path / "in")
    b_is_encoded = threading.Event()
    original_encode, original_put = EncodeEngine.encode, Store.create

    def watched(self: EncodeEngine, windows: Iterable[Window], repeated: RepeatedCaptions) -> Iterator[EncodedWindow]:
        for window in original_encode(self, windows, repeated):
            if window.keys[0].startswith("b"):
                b_is_encoded.set()
            yield window

    def waiting(self: Store, path: str, data: bytes) -> bool:
        if "ledger" in path and path.endswith("a.json"):
            assert b_is_encoded.wait(WAIT_SECONDS), "b waits for a's record"
        return original_put(self, path, data)

    monkeypatch.setattr(EncodeEngine, "encode", watched)
    monkeypatch.setattr(Store, "create", waiting)
    shards = worker(tmp_path, "out")
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        a = first.submit(shards.encode, listed[0], ["txt"], 1)
        b = second.submit(shards.encode, listed[1], ["txt"], 1)
        assert a.result().groups[0].committed
        assert b.result().groups[0].committed


def test_a_shard_that_fails_gives_its_turn_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tars(tmp_path / "in")
    original = EncodeEngine.encode

    def failing(self: EncodeEngine, windows: Iterable[Window], repeated: RepeatedCaptions) -> Iterator[EncodedWindow]:
        for window in original(self, windows, repeated):
            if window.keys[0].startswith("a"):
                raise RuntimeError("out of luck")
            yield window

    monkeypatch.setattr(EncodeEngine, "encode", failing)
    shards = worker(tmp_path, "out")
    with ThreadPoolExecutor(2) as threads:
        results = [threads.submit(shards.encode, tar, ["txt"], 1) for tar in listed[:2]]
        with pytest.raises(RuntimeError, match="out of luck"):
            results[0].result()
        assert results[1].result(WAIT_SECONDS).groups[0].committed
    assert shards.live == {}


def test_who_stops_early_gives_the_turn_back() -> None:
    turn = threading.Lock()
    items = in_turn(turn, iter(range(3)))
    assert not turn.locked()
    assert next(items) == 0
    assert turn.locked()
    items.close()
    assert not turn.locked()
    assert list(in_turn(turn, [])) == []
    assert not turn.locked()

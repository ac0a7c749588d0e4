"""One thread for all of a worker's shards: the device has one at a time, and works while others are read or written."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import numpy as np
import pytest

import schemas
from pipeline import caption_groups
from pipeline.ahead import ahead
from pipeline.device_thread import DeviceThread
from pipeline.encoded import EncodedWindow
from pipeline.encoders import EncoderOutput, TextEncoder
from pipeline.encoders.packed import PackedTokens
from pipeline.engine import EncodeEngine
from pipeline.group_encoder import Samples
from pipeline.repeated_captions import RepeatedCaptions
from pipeline.shard_encoder import EngineSettings, ShardEncoder
from pipeline.sources import InputTar
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


def test_a_shard_is_read_and_tokenized_before_it_has_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shard a keeps the device until shard b's first window is there."""
    listed = tars(tmp_path / "in")
    b_is_read, a_is_encoded = threading.Event(), threading.Event()
    original_encode, original_read = EncodeEngine.encode, caption_groups.read_windows

    def watched(self: EncodeEngine, windows: Iterable[Window], repeated: RepeatedCaptions) -> Iterator[EncodedWindow]:
        for window in original_encode(self, windows, repeated):
            if window.keys[0].startswith("a"):
                a_is_encoded.set()
                assert b_is_read.wait(WAIT_SECONDS), "b waits for the device"
            yield window

    def reading(samples: Samples, *args: Any) -> Iterator[Window]:
        for window in original_read(samples, *args):
            if window.keys[0].startswith("b"):
                b_is_read.set()
            yield window

    monkeypatch.setattr(EncodeEngine, "encode", watched)
    monkeypatch.setattr(caption_groups, "read_windows", reading)
    shards = worker(tmp_path, "out")
    with ThreadPoolExecutor(2) as threads:
        a = threads.submit(shards.encode, listed[0], ["txt"], 1)
        assert a_is_encoded.wait(WAIT_SECONDS)
        b = threads.submit(shards.encode, listed[1], ["txt"], 1)
        assert a.result().groups[0].committed
        assert b.result().groups[0].committed


def test_a_shard_that_fails_lets_the_next_one_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_one_thread_computes_all_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, threads, original = tars(tmp_path / "in"), set(), TextEncoder.encode_packed

    def watched(self: TextEncoder, packed: PackedTokens) -> EncoderOutput:
        threads.add(threading.current_thread())
        return original(self, packed)

    monkeypatch.setattr(TextEncoder, "encode_packed", watched)
    shards = worker(tmp_path, "out")
    for tar in listed[:2]:
        shards.encode(tar, ["txt"], 1)
    with ThreadPoolExecutor(1) as other:
        other.submit(shards.encode, listed[2], ["txt"], 1).result()
    assert [thread.name for thread in threads] == ["device"]


def test_an_engine_measures_in_the_thread_it_computes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, original = [], EncodeEngine.__init__

    def watched(self: EncodeEngine, *args: object) -> None:
        names.append(threading.current_thread().name)
        original(self, *args)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(EncodeEngine, "__init__", watched)
    worker(tmp_path, "out")
    assert names == ["device"]


def endless(done: list[str], name: str) -> Iterator[int]:
    try:
        yield from itertools.count()
    finally:
        done.append(name)


def test_stages_share_the_thread_one_after_the_other() -> None:
    thread, done = DeviceThread(), list[str]()
    with closing(ahead(endless(done, "first"), 2, "a", thread=thread)) as first:
        assert next(first) == 0
        with ThreadPoolExecutor(1) as other:
            second = other.submit(lambda: list(ahead(range(100), 2, "b", thread=thread)))
            assert list(itertools.islice(first, 50)) == list(range(1, 51))
            assert not second.done()
            first.close()
            assert done == ["first"]
            assert second.result(WAIT_SECONDS) == list(range(100))


def test_who_waits_for_the_thread_can_stop_waiting() -> None:
    """Its stage never begins, and the one that has the thread goes on."""

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupted)
    thread, done = DeviceThread(), list[str]()
    with closing(ahead(endless(done, "first"), 2, "a", thread=thread)) as first:
        assert next(first) == 0
        interrupt = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            next(ahead(endless(done, "second"), 2, "b", thread=thread))
        assert next(first) == 1
    signal.signal(signal.SIGUSR1, before)
    assert done == ["first"]
    assert thread.submit(lambda: 7).result(WAIT_SECONDS) == 7


def test_errors_arrive_and_leave_the_thread_alive() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    thread = DeviceThread()
    with pytest.raises(ValueError, match="the second"):
        list(ahead(failing(), 2, "a", thread=thread))
    with pytest.raises(ZeroDivisionError):
        thread.submit(lambda: 1 // 0).result()
    assert list(ahead(range(5), 2, "b", thread=thread)) == list(range(5))


class Thing:
    """Something that can be watched, and counted."""

    alive: ClassVar[Counter[str]] = Counter()
    most: ClassVar[Counter[str]] = Counter()
    lock = threading.Lock()

    def __init__(self, kind: str) -> None:
        self.kind = kind
        with self.lock:
            self.alive[kind] += 1
            self.most[kind] = max(self.most[kind], self.alive[kind])

    def __del__(self) -> None:
        with self.lock:
            self.alive[self.kind] -= 1


def test_no_more_items_are_alive_than_with_a_thread_for_each_stage() -> None:
    """Two of a shard: the one that is packed and one more, made or in the making."""
    thread = DeviceThread()
    Thing.alive.clear()
    Thing.most.clear()

    def consume(kind: str) -> None:
        with closing(ahead((Thing(kind) for _ in range(20)), 2, kind, thread=thread)) as things:
            for _thing in things:
                time.sleep(0.002)
                del _thing

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(consume, "abc"))
    assert Thing.most == {"a": 2, "b": 2, "c": 2}
    assert not +Thing.alive


def test_the_thread_holds_nothing_between_tasks_and_ends_with_its_owner() -> None:
    thread, thing = DeviceThread(), Thing("held")
    ident = thread.submit(threading.current_thread).result()
    assert thread.submit(lambda it: it, thing).result() is thing
    watched = weakref.ref(thing)
    del thing
    deadline = time.monotonic() + WAIT_SECONDS
    while watched() is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watched() is None, "the thread waits for its next task, and holds the last one's"
    del thread
    ident.join(WAIT_SECONDS)
    assert not ident.is_alive()


def test_a_process_ends_though_its_device_hangs() -> None:
    program = """
import threading
from pipeline.device_thread import DeviceThread
begun, thread = threading.Event(), DeviceThread()
thread.submit(lambda: (begun.set(), threading.Event().wait()))
begun.wait()
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=WAIT_SECONDS, check=False).returncode == 0

"""The chunk cache: bounded, shared by processes, whole or not there, and never more than a help."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import schemas
from schemas.dataset import Dataset
from tests.datasets import make_manifest, samples, write_dataset
from trainer.stream import cache as cache_module
from trainer.stream.cache import ChunkCache
from trainer.stream.cache_folder import CacheFolder
from trainer.stream.catalog import ChunkRef
from trainer.stream.fetch import ChunkFetcher

SIZE = 1000


def name(number: int) -> str:
    return f"{number:02d}{'0' * 62}-{number}"


def content(number: int, size: int = SIZE) -> pa.Buffer:
    return pa.py_buffer(number.to_bytes(2, "little") * (size // 2))


def entries(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in (folder / "entries").glob("*/*")}


def writing(folder: Path) -> list[Path]:
    return list((folder / "writing").glob("*"))


def test_entries_come_back_in_any_process(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path / "new" / "folder", 10 * SIZE)
    assert cache.get(name(1)) is None
    assert cache.put(name(1), content(1))
    assert cache.get(name(1)) == content(1)
    assert ChunkCache(tmp_path / "new" / "folder", 10 * SIZE).get(name(1)) == content(1)
    assert cache.locate(name(1)) == str(tmp_path / "new" / "folder" / "entries" / "01" / name(1))
    assert not writing(tmp_path / "new" / "folder")
    cache.drop(name(1))
    cache.drop(name(1))
    assert cache.get(name(1)) is None


def test_the_bound_holds_and_the_longest_unused_goes(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 10 * SIZE)
    for number in range(10):
        assert cache.put(name(number), content(number))
        os.utime(cache.locate(name(number)), (number, number))
    assert len(entries(tmp_path)) == 10
    assert cache.get(name(0)) == content(0)
    assert cache.put(name(10), content(10))
    # One more than needed goes, so that not every entry costs a look at all others.
    assert set(entries(tmp_path)) == {name(number) for number in (0, *range(3, 11))}
    for number in range(11, 60):
        cache.put(name(number), content(number))
        assert sum(entries(tmp_path).values()) <= 10 * SIZE


def test_what_is_larger_than_the_bound_is_not_kept(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 10 * SIZE)
    cache.put(name(1), content(1))
    assert not cache.put(name(2), content(2, 10 * SIZE + 2))
    assert set(entries(tmp_path)) == {name(1)}
    assert cache.put(name(3), content(3, 10 * SIZE))
    assert set(entries(tmp_path)) == {name(3)}


def test_a_smaller_bound_than_the_last_time(tmp_path: Path) -> None:
    before = ChunkCache(tmp_path, 10 * SIZE)
    for number in range(10):
        before.put(name(number), content(number))
    ChunkCache(tmp_path, 4 * SIZE).put(name(11), content(11))
    assert sum(entries(tmp_path).values()) <= 4 * SIZE
    assert name(11) in entries(tmp_path)


def test_a_lost_number_of_bytes_is_counted_anew(tmp_path: Path) -> None:
    before = ChunkCache(tmp_path, 10 * SIZE)
    for number in range(10):
        before.put(name(number), content(number))
    for lost in ("0", "", "x"):
        (tmp_path / "used-bytes").write_text(lost)
        ChunkCache(tmp_path, 10 * SIZE).put(name(11 + len(lost)), content(1))
        assert sum(entries(tmp_path).values()) <= 10 * SIZE
    (tmp_path / "used-bytes").write_text(str(10**15))
    assert before.put(name(20), content(20))
    assert len(entries(tmp_path)) > 5


def test_an_entry_that_is_being_read_survives_its_removal(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 10 * SIZE)
    cache.put(name(1), content(1))
    found = cache.get(name(1))
    with open(cache.locate(name(1)), "rb") as reader:
        cache.drop(name(1))
        for number in range(20, 40):
            cache.put(name(number), content(number))
        assert pa.py_buffer(reader.read()) == content(1) == found


def test_threads_with_caches_of_their_own_keep_the_bound(tmp_path: Path) -> None:
    caches = [ChunkCache(tmp_path, 20 * SIZE) for _ in range(4)]
    most = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal most
        folder = CacheFolder(tmp_path)
        while not ended.is_set():
            # As the cache counts: entries and what is being written, at one moment.
            lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
            fcntl.flock(lock, fcntl.LOCK_EX)
            most = max(most, folder.make_room(0, 10**9))
            os.close(lock)
            time.sleep(0.01)

    def use(worker: int) -> None:
        for number in range(60):
            data = caches[worker].get(name(number))
            assert data is None or data == content(number)
            if data is None:
                caches[worker].put(name(number), content(number))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, range(4)))
    ended.set()
    watcher.join()
    # What gets its name while it is counted, counts twice.
    assert 10 * SIZE < most <= (20 + len(caches)) * SIZE
    assert sum(entries(tmp_path).values()) <= 20 * SIZE
    assert not writing(tmp_path)


class FullDisk:
    """Has writing fail, or all system calls of a kind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str, code: int = errno.ENOSPC) -> None:
        def fail(*args: Any, **options: Any) -> Any:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, call, fail)


@pytest.mark.parametrize("call", ["pwrite", "ftruncate", "replace"])
def test_a_full_disk_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    cache = ChunkCache(tmp_path, 10 * SIZE)
    assert cache.put(name(1), content(1))
    with monkeypatch.context() as patch:
        FullDisk(patch, call)
        for number in range(2, 6):
            assert not cache.put(name(number), content(number))
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text
    assert not writing(tmp_path)
    # What is there serves on; the disk is left alone for a while, then tried again.
    assert cache.get(name(1)) == content(1)
    assert not cache.put(name(7), content(7))
    monkeypatch.setattr(cache_module, "_PAUSE_SECONDS", 0)
    cache._paused_until = 0
    assert cache.put(name(7), content(7))
    assert len(caplog.records) == 1


@pytest.mark.parametrize("place", ["a-file", "a-file/below"])
def test_a_folder_that_cannot_be_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str) -> None:
    (tmp_path / "a-file").write_text("")
    cache = ChunkCache(tmp_path / place, 10 * SIZE)
    for _ in range(3):
        assert cache.get(name(1)) is None
        assert not cache.put(name(1), content(1))
    assert len(caplog.records) == 1


def test_a_lock_that_nobody_lets_go_of_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_LOCK_SECONDS", 0.2)
    cache = ChunkCache(tmp_path, 10 * SIZE)
    cache.put(name(1), content(1))
    lock = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    started = time.monotonic()
    assert not cache.put(name(2), content(2))
    assert time.monotonic() - started < 100
    assert cache.get(name(1)) == content(1)
    os.close(lock)
    assert cache.put(name(2), content(2))


PUT_FOR_EVER = """
import sys, itertools, pyarrow as pa
from trainer.stream.cache import ChunkCache
cache = ChunkCache(sys.argv[1], 40_000_000)
for number in itertools.count():
    cache.put(f"{number % 100:02d}x", pa.py_buffer(bytes([number % 100]) * 1_000_000))
    print(number, flush=True)
"""

KILLED_WHILE_WRITING = """
import os, signal, sys, pyarrow as pa
from trainer.stream.cache import ChunkCache
write = os.pwrite
def half_then_killed(descriptor, data, offset):
    write(descriptor, data[: len(data) // 2], offset)
    os.kill(os.getpid(), signal.SIGKILL)
os.pwrite = half_then_killed
ChunkCache(sys.argv[1], 10_000).put("00half", pa.py_buffer(bytes(8_000)))
"""


def test_killed_in_the_middle_of_writing(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    (left,) = writing(tmp_path)
    assert left.stat().st_size == 8_000
    cache = ChunkCache(tmp_path, 10_000)
    assert cache.get("00half") is None
    # It is known to be nobody's, and its room is there again.
    assert cache.put(name(1), content(1, 9_000))
    assert not writing(tmp_path)


def test_what_a_living_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    tmp_path.mkdir(exist_ok=True)
    descriptor, temporary = folder.create_temporary(6_000)
    cache = ChunkCache(tmp_path, 10_000)
    assert not cache.put(name(1), content(1, 5_000))
    assert temporary.exists()
    folder.publish(descriptor, temporary, name(2), content(2, 6_000))
    assert cache.get(name(2)) == content(2, 6_000)
    assert cache.put(name(1), content(1, 5_000))
    assert cache.get(name(2)) is None


def test_kills_at_any_moment_leave_only_whole_entries(tmp_path: Path) -> None:
    for kill in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", PUT_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(10 + 17 * kill):
            process.stdout.readline()
        time.sleep(0.0007 * kill)
        process.kill()
        process.wait()
        process.stdout.close()
        for file in (tmp_path / "entries").glob("*/*"):
            assert file.read_bytes() == bytes([int(file.name[:2])]) * 1_000_000
    cache = ChunkCache(tmp_path, 40_000_000)
    cache.put(name(1), content(1))
    assert not writing(tmp_path)
    assert sum(entries(tmp_path).values()) <= 40_000_000


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, list[ChunkRef]]:
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(str(folder), make_manifest(), {"txt": {"s": samples(23)}})
    dataset = schemas.open_dataset(str(folder))
    chunks = dataset.record("txt", "s").chunks()
    return dataset, [ChunkRef("txt", "s", part, chunk, index) for index, (part, chunk) in enumerate(chunks)]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer"])
def test_a_damaged_entry_is_dropped_and_fetched_again(
    tmp_path: Path, stored: tuple[Dataset, list[ChunkRef]], damage: str
) -> None:
    dataset, (ref, *_) = stored
    first = ChunkFetcher(dataset, attempts=2, timeout_seconds=20, cache=ChunkCache(tmp_path, 10**7))
    whole = first.fetch(ref)
    (file,) = (tmp_path / "entries").glob("*/*")
    good = file.read_bytes()
    bad = {
        "flip": good[:50] + bytes([good[50] ^ 1]) + good[51:],
        "cut": good[:-1],
        "empty": b"",
        "longer": good + b"x",
    }[damage]
    file.write_bytes(bad)
    events: list[str] = []
    for fetcher in (
        first,
        ChunkFetcher(dataset, attempts=2, timeout_seconds=20, cache=ChunkCache(tmp_path, 10**7)),
    ):
        file.write_bytes(bad)
        events.clear()
        fetcher._on_event = events.append
        before = fetcher.stats
        assert fetcher.fetch(ref) == whole
        assert fetcher.stats.num_cache_damaged == before.num_cache_damaged + 1
        assert fetcher.stats.num_reads == before.num_reads + 1
        assert len(events) == 1
        assert str(file) in events[0]
        assert file.read_bytes() == good
        assert fetcher.fetch(ref) == whole
        assert fetcher.stats.num_reads == before.num_reads + 1


def test_concurrent_misses_are_fetched_and_kept_once(tmp_path: Path, stored: tuple[Dataset, list[ChunkRef]]) -> None:
    dataset, refs = stored
    fetcher = ChunkFetcher(dataset, attempts=2, timeout_seconds=20, cache=ChunkCache(tmp_path, 10**7))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(fetcher.fetch, [ref for ref in refs for _ in range(8)]))
    assert fetcher.stats.num_reads == len(refs)
    assert len(entries(tmp_path)) == len(refs)


def test_a_cache_that_does_not_answer_is_passed_by(
    tmp_path: Path, stored: tuple[Dataset, list[ChunkRef]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, (ref, *_) = stored
    cache = ChunkCache(tmp_path, 10**7)
    gate = threading.Event()
    monkeypatch.setattr(cache, "get", lambda _: gate.wait() and None)
    fetcher = ChunkFetcher(dataset, attempts=2, timeout_seconds=8.0, cache=cache)
    assert fetcher.fetch(ref).size == ref.chunk.num_bytes
    gate.set()

"""Fetching from a folder: what is damaged, short, gone or stuck, and that one fetch serves all who want it."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import schemas
from schemas.dataset import Dataset
from schemas.errors import DamagedDataError, EncodeOnceError, MissingObjectError, StorageError
from schemas.manifest import Container
from tests.datasets import make_manifest, samples, write_dataset
from trainer.stream import fetch
from trainer.stream.catalog import ChunkRef
from trainer.stream.fetch import ChunkFetcher
from trainer.stream.fetch_stats import FetchStats
from trainer.stream.single_flight import SingleFlight
from trainer.stream.spare_threads import SpareThreads


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_FIRST_PAUSE_SECONDS", 0.01)


def make_dataset(folder: Path, container: Container = "arrow") -> tuple[Dataset, list[ChunkRef]]:
    write_dataset(str(folder), make_manifest(container), {"txt": {"a/b": samples(23)}})
    dataset = schemas.open_dataset(str(folder))
    chunks = dataset.record("txt", "a/b").chunks()
    return dataset, [ChunkRef("txt", "a/b", part, chunk, index) for index, (part, chunk) in enumerate(chunks)]


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Dataset, list[ChunkRef]]:
    return make_dataset(tmp_path / "dataset")


def part_file(dataset: Dataset, ref: ChunkRef) -> Path:
    return Path(dataset.store.url) / "shards" / ref.shard / ref.part.name


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 0x10
    file.write_bytes(data)


def make_fetcher(dataset: Dataset, **options: Any) -> ChunkFetcher:
    return ChunkFetcher(dataset, **({"attempts": 3, "timeout_seconds": 20.0, "cache": None} | options))


def replace_reads(
    monkeypatch: pytest.MonkeyPatch, dataset: Dataset, read: Callable[[Callable[[], pa.Buffer]], pa.Buffer]
) -> None:
    """Has the store answer `read(answer)`, where `answer()` is what it would have answered."""
    answer = dataset.store.get_buffer
    monkeypatch.setattr(dataset.store, "get_buffer", lambda *args: read(lambda: answer(*args)))


@pytest.mark.parametrize("container", ["arrow", "webdataset"])
def test_chunks_are_the_bytes_of_the_part(tmp_path: Path, container: Container) -> None:
    dataset, refs = make_dataset(tmp_path, container)
    fetcher = make_fetcher(dataset)
    keys: list[str] = []
    for ref in refs:
        data = fetcher.fetch(ref)
        whole = part_file(dataset, ref).read_bytes()
        assert data == pa.py_buffer(whole[ref.chunk.offset : ref.chunk.offset + ref.chunk.num_bytes])
        keys += dataset.decode_chunk("txt", ref.shard, ref.part, ref.chunk, data)["key"].to_pylist()
    assert keys == [sample.key for sample in samples(23)]
    total = sum(ref.chunk.num_bytes for ref in refs)
    assert fetcher.stats == FetchStats(num_reads=len(refs), read_bytes=total)


def test_damage_that_stays_is_an_error_that_names_the_object(stored: tuple[Dataset, list[ChunkRef]]) -> None:
    dataset, refs = stored
    bad, good = refs[1], refs[2]
    flip(part_file(dataset, bad), bad.chunk.offset + bad.chunk.num_bytes // 2)
    events: list[str] = []
    fetcher = make_fetcher(dataset, on_event=events.append)
    with pytest.raises(DamagedDataError, match="chunk-checksum") as raised:
        fetcher.fetch(bad)
    assert str(part_file(dataset, bad)) in raised.value.where
    assert f"byte {bad.chunk.offset}" in raised.value.where
    assert "after 3 reads" in raised.value.actual
    assert len(events) == fetcher.stats.num_rereads == 2
    assert all(raised.value.where in event for event in events)
    fetcher.fetch(good)


def test_a_reread_heals_passing_damage(stored: tuple[Dataset, list[ChunkRef]], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, refs = stored
    answers = 0

    def twice_damaged(answer: Callable[[], pa.Buffer]) -> pa.Buffer:
        nonlocal answers
        answers += 1
        data = bytearray(answer().to_pybytes())
        if answers <= 2:
            data[7] ^= 1
        return pa.py_buffer(bytes(data))

    whole = make_fetcher(dataset).fetch(refs[0])
    replace_reads(monkeypatch, dataset, twice_damaged)
    fetcher = make_fetcher(dataset)
    assert fetcher.fetch(refs[0]) == whole
    assert fetcher.stats.num_rereads == 2
    answers = 0
    with pytest.raises(DamagedDataError):
        make_fetcher(dataset, attempts=2).fetch(refs[0])


@pytest.mark.parametrize("left", [0, 1, 1000])
def test_a_truncated_part(stored: tuple[Dataset, list[ChunkRef]], left: int) -> None:
    dataset, refs = stored
    ref = refs[1]
    os.truncate(part_file(dataset, ref), ref.chunk.offset + left)
    with pytest.raises(DamagedDataError, match="object-too-short") as raised:
        make_fetcher(dataset).fetch(ref)
    assert str(part_file(dataset, ref)) in raised.value.where
    assert f"{left} bytes" in raised.value.actual


def test_a_part_that_disappears_is_an_error_at_once(stored: tuple[Dataset, list[ChunkRef]]) -> None:
    dataset, refs = stored
    fetcher = make_fetcher(dataset, attempts=1000)
    fetcher.fetch(refs[0])
    part_file(dataset, refs[0]).unlink()
    with pytest.raises(MissingObjectError, match="object-missing") as raised:
        fetcher.fetch(refs[0])
    assert raised.value.where == str(part_file(dataset, refs[0]))
    assert fetcher.stats.num_rereads == 0


def test_a_folder_in_place_of_a_part_is_a_storage_error(stored: tuple[Dataset, list[ChunkRef]]) -> None:
    dataset, refs = stored
    part_file(dataset, refs[0]).unlink()
    part_file(dataset, refs[0]).mkdir()
    with pytest.raises(StorageError, match="storage-failed"):
        make_fetcher(dataset).fetch(refs[0])


def test_failures_of_the_store_are_tried_again_with_growing_pauses(
    stored: tuple[Dataset, list[ChunkRef]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, refs = stored
    times: list[float] = []

    def down(answer: Callable[[], pa.Buffer]) -> pa.Buffer:
        times.append(time.monotonic())
        if len(times) < 5:
            raise StorageError("storage-failed", where="here", expected="-", actual="down", remedy="-")
        return answer()

    monkeypatch.setattr(fetch, "_FIRST_PAUSE_SECONDS", 0.05)
    replace_reads(monkeypatch, dataset, down)
    make_fetcher(dataset, attempts=5).fetch(refs[0])
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert all(pause >= expected for pause, expected in zip(pauses, [0.05, 0.1, 0.2, 0.4], strict=True))


def test_an_error_that_is_not_the_datas_is_not_tried_again(
    stored: tuple[Dataset, list[ChunkRef]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, refs = stored

    def broken(answer: Callable[[], pa.Buffer]) -> pa.Buffer:
        raise MemoryError("no memory")

    replace_reads(monkeypatch, dataset, broken)
    fetcher = make_fetcher(dataset)
    with pytest.raises(MemoryError):
        fetcher.fetch(refs[0])
    assert fetcher.stats.num_rereads == 0


def test_a_read_that_never_answers_is_ended_by_the_bound(
    stored: tuple[Dataset, list[ChunkRef]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, refs = stored
    gate = threading.Event()
    replace_reads(monkeypatch, dataset, lambda answer: gate.wait() and answer())
    fetcher = make_fetcher(dataset, timeout_seconds=0.4)
    started = time.monotonic()
    with pytest.raises(StorageError, match="read-timeout") as raised:
        fetcher.fetch(refs[3])
    assert 0.35 < time.monotonic() - started < 100
    assert str(part_file(dataset, refs[3])) in raised.value.where
    assert fetcher.stats.num_rereads == 1
    gate.set()


def test_failures_and_pauses_are_within_the_bound_too(
    stored: tuple[Dataset, list[ChunkRef]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, refs = stored
    flip(part_file(dataset, refs[0]), refs[0].chunk.offset)
    monkeypatch.setattr(fetch, "_FIRST_PAUSE_SECONDS", 600.0)
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"read-timeout(.|\n)*earlier: xxh3_64"):
        make_fetcher(dataset, attempts=10**6, timeout_seconds=0.5).fetch(refs[0])
    assert time.monotonic() - started < 100


def test_a_second_read_joins_one_that_does_not_answer(
    stored: tuple[Dataset, list[ChunkRef]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, refs = stored
    gate = threading.Event()
    reads = 0

    def first_stalls(answer: Callable[[], pa.Buffer]) -> pa.Buffer:
        nonlocal reads
        reads += 1
        if reads == 1:
            gate.wait()
        return answer()

    whole = make_fetcher(dataset).fetch(refs[0])
    replace_reads(monkeypatch, dataset, first_stalls)
    events: list[str] = []
    fetcher = make_fetcher(dataset, timeout_seconds=8.0, on_event=events.append)
    started = time.monotonic()
    assert fetcher.fetch(refs[0]) == whole
    assert 3.95 < time.monotonic() - started < 8.0
    assert len(events) == 1
    assert "no answer for 4 s" in events[0]
    gate.set()


def test_a_slow_first_read_still_counts(
    stored: tuple[Dataset, list[ChunkRef]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, refs = stored

    def slow(answer: Callable[[], pa.Buffer]) -> pa.Buffer:
        time.sleep(5.0)
        return answer()

    replace_reads(monkeypatch, dataset, slow)
    fetcher = make_fetcher(dataset, timeout_seconds=8.0)
    # The second read, which joins after four seconds, would be too late.
    fetcher.fetch(refs[0])
    assert fetcher.stats.num_rereads == 1


def test_one_read_serves_all_threads(stored: tuple[Dataset, list[ChunkRef]], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, refs = stored
    all_there = threading.Barrier(12)
    asked = threading.Event()

    def slow(answer: Callable[[], pa.Buffer]) -> pa.Buffer:
        assert asked.wait(100)
        time.sleep(0.5)  # From the barrier to the read is a step for the others.
        return answer()

    def fetch_together(ref: ChunkRef) -> object:
        all_there.wait()
        asked.set()
        return fetcher.fetch(ref)

    replace_reads(monkeypatch, dataset, slow)
    fetcher = make_fetcher(dataset)
    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(fetch_together, refs[:2] * 6))
    assert fetcher.stats.num_reads == 2
    assert all(data is found[index % 2] for index, data in enumerate(found))
    # Nothing is kept.
    fetcher.fetch(refs[0])
    assert fetcher.stats.num_reads == 3


def test_an_error_reaches_all_threads(stored: tuple[Dataset, list[ChunkRef]], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, refs = stored
    part_file(dataset, refs[0]).unlink()
    replace_reads(monkeypatch, dataset, lambda answer: (time.sleep(0.2), answer())[1])
    fetcher = make_fetcher(dataset)

    def failure(ref: ChunkRef) -> EncodeOnceError | None:
        try:
            fetcher.fetch(ref)
        except EncodeOnceError as error:
            return error
        return None

    with ThreadPoolExecutor(6) as threads:
        failures = list(threads.map(failure, [refs[0]] * 6))
    assert all(isinstance(error, MissingObjectError) for error in failures)


def test_single_flight_forgets_what_has_ended() -> None:
    flights: SingleFlight[int] = SingleFlight()
    assert [flights.call("a", lambda: 1), flights.call("a", lambda: 2)] == [1, 2]
    with pytest.raises(OSError, match="once"):
        flights.call("a", _fail)
    assert flights.call("a", lambda: 3) == 3


def _fail() -> int:
    raise OSError("once")


def test_threads_are_used_again_and_end() -> None:
    threads = SpareThreads("spare-test", idle_seconds=0.5)
    seen: list[int] = []
    for _ in range(5):
        done = threading.Event()
        threads.run(lambda done=done: (seen.append(threading.get_ident()), done.set())[0])  # type: ignore[misc]
        assert done.wait(100)
        time.sleep(0.02)
    assert len(set(seen)) < 5
    stuck = threading.Event()
    threads.run(lambda: (stuck.wait(), None)[1])
    done = threading.Event()
    threads.run(done.set)
    assert done.wait(100)
    alive = [thread for thread in threading.enumerate() if thread.name == "spare-test"]
    assert len(alive) == 2
    assert all(thread.daemon for thread in alive)
    stuck.set()
    for thread in alive:
        thread.join(100)
        assert not thread.is_alive()
    # After all have ended there are new ones.
    done.clear()
    threads.run(done.set)
    assert done.wait(100)


def test_stats_add_up() -> None:
    assert FetchStats(1, 2, 3, 4, 5, 6) + FetchStats(read_bytes=10) == FetchStats(1, 12, 3, 4, 5, 6)

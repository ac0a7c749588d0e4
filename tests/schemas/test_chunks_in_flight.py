"""Chunks that are encoded at the same time: the same bytes, bounded memory, errors in their places, no thread left."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from schemas import compression, parts
from schemas.arrow_messages import FILE_HEAD, Block, file_end, record_batch_message
from schemas.commit import parts_in_flight, store_parts
from schemas.errors import StorageError
from schemas.manifest import Container, Layout
from schemas.parts import LazyBatch, build_parts, chunks_in_flight, encoding_pool
from schemas.storage import Store

SCHEMA = pa.schema(
    [pa.field("key", pa.string()), pa.field("tensor", pa.struct([pa.field("p0", pa.large_binary())]))],
    metadata={"encode_once.group": "txt"},
)
NUM_BYTES = 300_000


def batch(number: int, num_bytes: int = NUM_BYTES) -> pa.RecordBatch:
    """A chunk of two rows, different for each number, that compresses well."""
    plane = np.random.default_rng(number).binomial(16, 0.5, num_bytes).astype(np.uint8)
    half = num_bytes // 2
    rows = [{"p0": plane[:half].tobytes()}, {"p0": plane[half:].tobytes()}]
    return pa.record_batch([[f"{number}a", f"{number}b"], pa.array(rows, SCHEMA.field("tensor").type)], schema=SCHEMA)


def lazy(number: int, before: Callable[[], object] = lambda: None, num_bytes: int = NUM_BYTES) -> LazyBatch:
    def make() -> pa.RecordBatch:
        before()
        return batch(number)

    return LazyBatch(num_bytes, make)


def layout(container: Container = "arrow", part_bytes: int = 1) -> Layout:
    """One chunk a part, if nothing else is said."""
    return Layout(container=container, chunk_rows=2, part_bytes=part_bytes)


def keys(part: parts.BuiltPart) -> list[str]:
    """Of the rows of a part of the `arrow` container."""
    with pa.ipc.open_file(pa.py_buffer(b"".join(part.data))) as reader:
        return reader.read_all().column("key").to_pylist()


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def serial_file(batches: Sequence[pa.RecordBatch]) -> bytes:
    """An Arrow part, written without any of what is tested here."""
    data, blocks = FILE_HEAD + SCHEMA.serialize().to_pybytes(), []
    for one in batches:
        message = record_batch_message(one)
        blocks.append(Block(len(data), message.metadata_bytes, message.num_bytes - message.metadata_bytes))
        data += b"".join(message.pieces)
    return data + file_end(SCHEMA, blocks)


@pytest.mark.parametrize("container", ["arrow", "webdataset"])
@pytest.mark.parametrize("num_threads", [1, 2, 8])
def test_the_files_do_not_depend_on_threads_or_on_who_is_done_first(
    threads: Callable[[int], None], container: Container, num_threads: int
) -> None:
    """Large chunks, which threads share, among small ones, and late ones among early ones."""
    sizes = [NUM_BYTES, 6_000_000, 1000, NUM_BYTES, 9_000_000, 1000, 1000, NUM_BYTES]
    batches = [batch(number, size) for number, size in enumerate(sizes)]
    delays = random.Random(num_threads)

    def late(number: int) -> LazyBatch:
        def make() -> pa.RecordBatch:
            time.sleep(delays.uniform(0, 0.05))
            return batches[number]

        return LazyBatch(sizes[number], make)

    def built(source: Sequence[pa.RecordBatch | LazyBatch]) -> list[tuple[str, bytes]]:
        with encoding_pool() as pool:
            found = build_parts(source, SCHEMA, "txt", layout(container, 7_000_000), pool)
            return [(part.entry.name, b"".join(part.data)) for part in found]

    threads(1)
    expected = built(batches)
    assert len(expected) == 2
    if container == "arrow":
        assert [data for _, data in expected] == [serial_file(batches[:4]), serial_file(batches[4:])]
    threads(num_threads)
    assert built([late(number) for number in range(len(sizes))]) == expected


@pytest.mark.parametrize("num_threads", [1, 2, 8])
def test_only_so_many_chunks_are_in_memory(threads: Callable[[int], None], num_threads: int) -> None:
    threads(num_threads)
    lock = threading.Lock()
    alive, highest, asked = 0, 0, 0

    def made(number: int) -> pa.RecordBatch:
        nonlocal alive, highest
        # In memory of its own, so that its end can be watched.
        plane = np.random.default_rng(number).binomial(16, 0.5, NUM_BYTES).astype(np.uint8)
        with lock:
            alive += 1
            highest = max(highest, alive)

        def gone() -> None:
            nonlocal alive
            with lock:
                alive -= 1

        weakref.finalize(plane, gone)
        offsets = pa.py_buffer(np.array([0, NUM_BYTES], np.int64))
        column = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(plane)])
        return pa.record_batch([[str(number)], pa.StructArray.from_arrays([column], ["p0"])], schema=SCHEMA)

    def source() -> Iterator[LazyBatch]:
        nonlocal asked
        for number in range(30):
            asked += 1
            yield LazyBatch(NUM_BYTES, lambda number=number: made(number))

    with encoding_pool() as pool:
        for taken, part in enumerate(build_parts(source(), SCHEMA, "txt", layout(), pool)):
            time.sleep(0.01)  # a slow store
            # A part is out when the chunk behind it is, too, as that might have found room in it.
            assert asked <= min(30, taken + 2 + chunks_in_flight())
            assert len(part.entry.chunks) == 1
            del part
    assert 1 <= highest <= chunks_in_flight() == num_threads + 1
    assert alive == 0, "what compresses is let go as soon as it is compressed"
    assert asked == 30


def test_large_chunks_are_fewer_at_a_time(threads: Callable[[int], None]) -> None:
    """Six times as large as a layout expects, as all captions may be of the longest kind."""
    threads(8)
    lock = threading.Lock()
    running, most = 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    huge = 32 * 1024**2 * 9 // 2
    with encoding_pool() as pool:
        source = [lazy(number, work, huge) for number in range(8)]
        assert len(list(build_parts(source, SCHEMA, "txt", layout(), pool))) == 8
        assert most == 2
        most = 0
        source = [lazy(number, work, 3 * huge) for number in range(4)]
        assert len(list(build_parts(source, SCHEMA, "txt", layout(), pool))) == 4
        assert most == 1


def test_what_a_batch_is_made_of_is_let_go_before_it_is_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be views of a window of captions, which would stay in memory as long as one of its chunks."""

    class Window:
        """Can be watched."""

    window = Window()
    watched = weakref.ref(window)
    held: list[bool] = []
    frame = compression._frame

    def look(buffer: memoryview) -> bytes | None:
        held.append(watched() is not None)
        return frame(buffer)

    def make(_: Window) -> pa.RecordBatch:
        return batch(0)

    monkeypatch.setattr(compression, "_frame", look)
    waiting = [LazyBatch(NUM_BYTES, lambda window=window: make(window))]
    del window

    def source() -> Iterator[LazyBatch]:
        yield waiting.pop()

    with encoding_pool() as pool:
        assert len(list(build_parts(source(), SCHEMA, "txt", layout(), pool))) == 1
    assert held
    assert not any(held)


@pytest.mark.usefixtures("no_thread_is_left")
def test_a_chunk_that_fails_does_so_in_its_place(threads: Callable[[int], None]) -> None:
    threads(2)

    def fail() -> None:
        raise MemoryError("chunk 3")

    source = [lazy(0), lazy(1), lazy(2, lambda: time.sleep(0.1)), lazy(3, fail), lazy(4), lazy(5)]
    found = []
    with encoding_pool() as pool:
        with pytest.raises(MemoryError, match="chunk 3"):
            found += [keys(part) for part in build_parts(source, SCHEMA, "txt", layout(), pool)]
        # The pool is of use to others.
        assert len(list(build_parts([lazy(0)], SCHEMA, "txt", layout(), pool))) == 1


@pytest.mark.usefixtures("no_thread_is_left")
def test_a_source_that_fails_does_so_behind_what_it_gave(threads: Callable[[int], None]) -> None:
    threads(4)
    out: list[list[str]] = []
    closed: list[bool] = []

    def source() -> Iterator[LazyBatch]:
        try:
            for number in range(3):
                yield lazy(number, lambda: time.sleep(0.05))
            raise ValueError("the tar ends here")
        finally:
            closed.append(True)

    def take() -> None:
        with encoding_pool() as pool:
            for part in build_parts(source(), SCHEMA, "txt", layout(), pool):
                out.append(keys(part))

    with pytest.raises(ValueError, match="the tar ends here"):
        take()
    # The third would have been out with the fourth, as for all it knew that might have found room in its part.
    assert out == [["0a", "0b"], ["1a", "1b"]]
    assert closed == [True]


@pytest.mark.usefixtures("no_thread_is_left")
def test_whoever_stops_early_waits_for_what_has_begun_alone(threads: Callable[[int], None]) -> None:
    threads(2)
    asked = [threading.Event() for _ in range(4)]
    begun, finish = threading.Event(), threading.Event()
    made: list[int] = []

    def work(number: int) -> None:
        if number < 2:  # until so many are waiting behind it as there may be
            assert asked[number + 2].wait(60)
        else:
            begun.set()
            assert finish.wait(60)
        made.append(number)

    def source() -> Iterator[LazyBatch]:
        for number, event in enumerate(asked):
            event.set()
            yield lazy(number, lambda number=number: work(number))

    with ThreadPoolExecutor(1) as pool:
        building = build_parts(source(), SCHEMA, "txt", layout(), pool)
        next(building)
        assert asked[3].is_set()
        assert begun.wait(60)
        threading.Timer(0.1, finish.set).start()
        building.close()
        assert made == [0, 1, 2], "one that is being encoded is waited for, one behind it is not begun"
    assert made == [0, 1, 2]


class Slow(Store):
    """Notes how many parts are being stored at the same time, and can fail."""

    delay = 0.0
    failing = -1

    def create_content_addressed(self, path: str, chunks: object, num_bytes: int) -> bool:
        self.now = getattr(self, "now", 0) + 1
        self.most = max(getattr(self, "most", 0), self.now)
        time.sleep(self.delay)
        self.now -= 1
        if f"txt-{self.failing:05d}" in path:
            raise StorageError("storage-failed", where=path, expected="room", actual="none", remedy="make room")
        return super().create_content_addressed(path, chunks, num_bytes)


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.parametrize(("num_threads", "most"), [(1, 1), (2, 1), (8, 2), (16, 4), (64, 4)])
def test_only_so_many_parts_are_stored_at_a_time(
    threads: Callable[[int], None], tmp_path: Path, num_threads: int, most: int
) -> None:
    threads(num_threads)
    store = Slow(str(tmp_path))
    store.delay = 0.03
    entries = store_parts(store, [lazy(number) for number in range(12)], SCHEMA, "txt", "s", layout())
    assert [entry.name[:9] for entry in entries] == [f"txt-{number:05d}" for number in range(12)]
    assert sorted(path.name for path in tmp_path.rglob("*.arrow")) == [entry.name for entry in entries]
    assert store.most == most == parts_in_flight()


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.parametrize("num_threads", [1, 8])
def test_a_store_that_fails_ends_it(threads: Callable[[int], None], tmp_path: Path, num_threads: int) -> None:
    threads(num_threads)
    store = Slow(str(tmp_path))
    store.delay, store.failing = 0.01, 2
    asked: list[int] = []

    def source() -> Iterator[LazyBatch]:
        for number in range(200):
            asked.append(number)
            yield lazy(number)

    with closing(source()) as batches, pytest.raises(StorageError, match="storage-failed"):
        store_parts(store, batches, SCHEMA, "txt", "s", layout())
    assert len(asked) < 50


@pytest.mark.usefixtures("no_thread_is_left")
def test_the_last_part_that_fails_is_heard(threads: Callable[[int], None], tmp_path: Path) -> None:
    threads(8)
    store = Slow(str(tmp_path))
    store.failing = 3
    with pytest.raises(StorageError, match="storage-failed"):
        store_parts(store, [lazy(number) for number in range(4)], SCHEMA, "txt", "s", layout())


@pytest.mark.usefixtures("no_thread_is_left")
def test_ctrl_c_ends_it(threads: Callable[[int], None], tmp_path: Path) -> None:
    threads(2)
    asked: list[int] = []

    def source() -> Iterator[LazyBatch]:
        for number in range(200):
            asked.append(number)
            yield lazy(number, (lambda: os.kill(os.getpid(), signal.SIGINT)) if number == 5 else lambda: None)

    # A process in the background of a shell ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with closing(source()) as batches, pytest.raises(KeyboardInterrupt):
            store_parts(Store(str(tmp_path)), batches, SCHEMA, "txt", "s", layout())
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(asked) < 200


@given(st.lists(st.integers(1, 9_000), max_size=12), st.integers(1, 20_000), st.integers(1, 3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_sizes_make_the_same_parts_in_any_number_of_threads(
    threads: Callable[[int], None], sizes: list[int], part_bytes: int, num_threads: int
) -> None:
    batches = [batch(number, size) for number, size in enumerate(sizes)]
    found = []
    for number in (1, num_threads):
        threads(number)
        with encoding_pool() as pool:
            found.append(
                [part.entry for part in build_parts(batches, SCHEMA, "txt", layout("arrow", part_bytes), pool)]
            )
    assert found[0] == found[1]

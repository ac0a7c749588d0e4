"""Prefetching: batches in order, memory within its bound, errors and ends that reach whoever waits."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trainer.stream.budget import MemoryBudget
from trainer.stream.decode import SampleChunk
from trainer.stream.plan import ChunkId, PlannedBatch
from trainer.stream.prefetch import Prefetcher, Threads

CHUNK_BYTES = 100


def planned(num_batches: int, batches_per_chunk: int = 4) -> Iterator[PlannedBatch]:
    """Batches of one row; each needs two chunks, an old and a new one."""
    for index in range(num_batches):
        chunks = [ChunkId(0, 0, index // batches_per_chunk), ChunkId(0, 0, index // batches_per_chunk + 1)]
        yield PlannedBatch(index, index + 1, np.array([index]), list(chunks), np.array([0]))


class Chunks:
    """A source that counts, waits and fails as told."""

    def __init__(self, batches_per_chunk: int = 4) -> None:
        self.batches_per_chunk = batches_per_chunk
        self.num_reads = 0
        self.fail_at: int | None = None
        self.gate: threading.Event | None = None
        self.lock = threading.Lock()

    def estimate_bytes(self, chunk: ChunkId) -> int:
        return 2 * CHUNK_BYTES

    def last_position(self, chunk: ChunkId) -> int:
        return (chunk.chunk + 1) * self.batches_per_chunk - 1

    def read(self, chunk: ChunkId) -> object:
        with self.lock:
            self.num_reads += 1
        if self.gate is not None:
            self.gate.wait()
        if chunk.chunk == self.fail_at:
            raise OSError(f"chunk {chunk.chunk} is gone")
        return chunk.chunk

    def decode(self, chunk: ChunkId, data: object) -> SampleChunk:
        assert data == chunk.chunk
        fake: Any = SimpleNamespace(number=chunk.chunk)
        return SampleChunk(fake, None, CHUNK_BYTES)


def assemble(batch: PlannedBatch, chunks: Mapping[ChunkId, SampleChunk]) -> tuple[int, list[int]]:
    found: list[Any] = [chunks[chunk].captions for chunk in batch.chunks if chunk is not None]
    return batch.position, [chunk.number for chunk in found]


def prefetcher(
    source: Chunks, num_batches: int, budget: MemoryBudget, ready: int = 3
) -> Prefetcher[tuple[int, list[int]]]:
    plan = planned(num_batches, source.batches_per_chunk)
    return Prefetcher(plan, source, assemble, budget, ready, Threads(3, 2))


def settle(holds: Any) -> bool:
    """Whether something becomes true soon."""
    end = time.monotonic() + 100
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.01)
    return bool(holds())


@pytest.mark.parametrize("limit", [1, 4 * CHUNK_BYTES, 10_000])
def test_batches_come_in_order_and_each_chunk_is_read_once(limit: int) -> None:
    source, budget = Chunks(), MemoryBudget(limit)
    found = list(prefetcher(source, 40, budget))
    assert found == [(index, [index // 4, index // 4 + 1]) for index in range(40)]
    assert source.num_reads == 11


def test_memory_stays_within_the_bound_and_all_of_it_is_given_back() -> None:
    limit = 6 * CHUNK_BYTES
    source, budget = Chunks(), MemoryBudget(limit)
    batches = prefetcher(source, 400, budget)
    assert settle(lambda: source.num_reads >= 3)
    time.sleep(0.1)
    # Nobody takes a batch, so prefetching ends at the bound: three chunks of 200 bytes reserved, then 100 each.
    assert source.num_reads < 8
    assert sum(1 for _ in batches) == 400
    assert budget.peak_bytes <= limit
    batches.close()
    del batches
    gc.collect()
    assert settle(lambda: budget.used_bytes == 0), budget.used_bytes


def test_a_batch_that_needs_more_than_the_bound_comes_anyway() -> None:
    batches = prefetcher(Chunks(batches_per_chunk=1), 20, MemoryBudget(2 * CHUNK_BYTES))
    assert len(list(batches)) == 20


def test_the_next_batches_are_ready_before_they_are_asked_for() -> None:
    batches = prefetcher(Chunks(), 40, MemoryBudget(10_000), ready=3)
    assert settle(lambda: sum(future.done() for future in batches._outstanding) == 3)
    assert len(batches._outstanding) == 3
    batches.close()


def test_an_error_comes_out_at_the_batch_that_needs_the_chunk() -> None:
    source = Chunks()
    source.fail_at = 2
    batches = prefetcher(source, 40, MemoryBudget(10_000))
    assert [next(batches)[0] for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="chunk 2 is gone"):
        next(batches)
    batches.close()


def test_an_error_of_the_plan_comes_out_too() -> None:
    def plan() -> Iterator[PlannedBatch]:
        yield from planned(2)
        raise ValueError("no such order")

    batches = Prefetcher(plan(), Chunks(), assemble, MemoryBudget(10_000), 3, Threads(1, 1))
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(ValueError, match="no such order"):
        next(batches)


def test_closing_ends_whoever_waits() -> None:
    before = set(threading.enumerate())
    source = Chunks()
    source.gate = threading.Event()
    batches = prefetcher(source, 40, MemoryBudget(10_000))
    ended = threading.Event()

    def wait() -> None:
        assert list(batches) == []
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    assert not ended.is_set()
    batches.close()
    assert ended.wait(100)
    thread.join()
    source.gate.set()
    assert settle(lambda: set(threading.enumerate()) <= before)

"""Chunks are read and decoded ahead of the batches that need them, batches assembled ahead of the steps.

One thread walks the plan: it admits chunks in the order in which they are first needed, as long as the memory budget
lasts, and lets them go when their last row has been planned. Reading, decoding and assembling have threads of their
own; the heavy part of each runs without Python's lock. Batches come out in order.
"""

from __future__ import annotations

import heapq
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from trainer.stream.budget import MemoryBudget
from trainer.stream.daemon_pool import DaemonPool
from trainer.stream.decode import SampleChunk
from trainer.stream.plan import ChunkId, PlannedBatch

_T = TypeVar("_T")
_B_co = TypeVar("_B_co", covariant=True)

_MAX_PLANNED = 4096


class ChunkSource(Protocol):
    """Where chunks come from."""

    def estimate_bytes(self, chunk: ChunkId) -> int:
        """Host memory that reading and holding a chunk takes, about."""

    def last_position(self, chunk: ChunkId) -> int:
        """A position at or after the chunk's last row."""

    def read(self, chunk: ChunkId) -> object:
        """Fetches a chunk's bytes, checked."""

    def decode(self, chunk: ChunkId, data: object) -> SampleChunk:
        """Decodes what `read` fetched."""


class Assemble(Protocol[_B_co]):
    """Makes a batch from its chunks."""

    def __call__(self, plan: PlannedBatch, chunks: Mapping[ChunkId, SampleChunk], /) -> _B_co:
        """Called in one of several threads."""


@dataclass(frozen=True)
class Threads:
    """How many of each.

    Attributes:
        readers: Ranged reads at a time.
        workers: Threads that decode, and as many that assemble.
    """

    readers: int
    workers: int


class Prefetcher(Generic[_T]):
    """An iterator over assembled batches.

    Args:
        plan: The rank's batches.
        source: Of the chunks.
        assemble: Makes a batch.
        budget: Bounds the chunks in memory.
        ready: Batches assembled ahead.
        threads: Numbers of threads.
    """

    def __init__(
        self,
        plan: Iterator[PlannedBatch],
        source: ChunkSource,
        assemble: Assemble[_T],
        budget: MemoryBudget,
        ready: int,
        threads: Threads,
    ) -> None:
        self._plan = plan
        self._source = source
        self._assemble = assemble
        self._budget = budget
        self._ready = ready
        self._chunks: dict[ChunkId, Future[SampleChunk]] = {}
        self._pending: weakref.WeakSet[Future[SampleChunk]] = weakref.WeakSet()
        self._last_positions: list[tuple[int, ChunkId]] = []
        self._planned: deque[tuple[PlannedBatch, dict[ChunkId, Future[SampleChunk]]]] = deque()
        self._outstanding: deque[Future[_T]] = deque()
        self._finished = False
        self._error: BaseException | None = None
        self._stopped = False
        self._changed = threading.Condition()
        self._readers = DaemonPool(threads.readers, "stream-read")
        self._decoders = DaemonPool(threads.workers, "stream-decode")
        self._assemblers = DaemonPool(threads.workers, "stream-assemble")
        self._planner = threading.Thread(target=self._run, name="stream-plan", daemon=True)
        self._planner.start()

    def __iter__(self) -> Iterator[_T]:
        return self

    def __next__(self) -> _T:
        with self._changed:
            while not self._outstanding and not self._finished:
                self._changed.wait()
            future = self._outstanding[0] if self._outstanding else None
        if future is None:
            self.close()
            raise StopIteration if self._error is None else self._error
        try:
            return future.result()
        except CancelledError:
            raise StopIteration from None
        except BaseException:
            self.close()
            raise
        finally:
            del future
            with self._changed:
                if self._outstanding:
                    self._outstanding.popleft()
                self._dispatch()
                self._changed.notify_all()
            self._budget.wake()

    def close(self) -> None:
        """Ends all threads; a batch that is waited for ends the iteration."""
        with self._changed:
            self._stopped = self._finished = True
            self._planned.clear()
            self._changed.notify_all()
        self._budget.wake()
        for pool in (self._readers, self._decoders, self._assemblers):
            pool.close()
        # Whoever waits for a chunk or a batch that will not come any more must not wait for ever.
        waited_for: list[Future[Any]] = [*self._pending, *self._outstanding]
        for future in waited_for:
            future.cancel()

    def _run(self) -> None:
        try:
            for batch in self._plan:
                if not self._plan_batch(batch):
                    return
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._finished = True
                self._changed.notify_all()

    def _plan_batch(self, batch: PlannedBatch) -> bool:
        while self._last_positions and self._last_positions[0][0] < batch.position:
            del self._chunks[heapq.heappop(self._last_positions)[1]]
        futures: dict[ChunkId, Future[SampleChunk]] = {}
        for chunk in batch.chunks:
            if chunk is None or chunk in futures:
                continue
            if chunk not in self._chunks:
                self._budget.acquire(self._source.estimate_bytes(chunk), self._nothing_in_flight)
                if self._stopped:
                    return False
                self._chunks[chunk] = self._start(chunk)
                heapq.heappush(self._last_positions, (self._source.last_position(chunk), chunk))
            futures[chunk] = self._chunks[chunk]
        with self._changed:
            while len(self._planned) >= _MAX_PLANNED and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return False
            self._planned.append((batch, futures))
            self._dispatch()
            self._changed.notify_all()
        return True

    def _nothing_in_flight(self) -> bool:
        """Whether no planned batch is left that could give memory back: then the next one must be made anyway."""
        return self._stopped or not (self._planned or self._outstanding)

    def _dispatch(self) -> None:
        while self._planned and len(self._outstanding) < self._ready and not self._stopped:
            self._outstanding.append(self._assemblers.submit(_assembly(self._assemble, *self._planned.popleft())))

    def _start(self, chunk: ChunkId) -> Future[SampleChunk]:
        decoded: Future[SampleChunk] = Future()
        self._pending.add(decoded)
        reserved = self._source.estimate_bytes(chunk)

        def read() -> None:
            try:
                data = self._source.read(chunk)
            except BaseException as error:
                self._budget.release(reserved)
                decoded.set_exception(error)
                return
            self._decoders.submit(lambda: decode(data))

        def decode(data: object) -> None:
            try:
                found = self._source.decode(chunk, data)
            except BaseException as error:
                self._budget.release(reserved)
                decoded.set_exception(error)
                return
            # Corrected to what it is, and given back when the last batch that needs it has been assembled.
            self._budget.release(reserved - found.num_bytes)
            weakref.finalize(found, self._budget.release, found.num_bytes).atexit = False
            decoded.set_result(found)

        self._readers.submit(read)
        return decoded


def _assembly(
    assemble: Callable[[PlannedBatch, Mapping[ChunkId, SampleChunk]], _T],
    batch: PlannedBatch,
    futures: dict[ChunkId, Future[SampleChunk]],
) -> Callable[[], _T]:
    def run() -> _T:
        chunks = {chunk: future.result() for chunk, future in futures.items()}
        # The call may outlive the batch by as long as a thread has nothing to do.
        futures.clear()
        return assemble(batch, chunks)

    return run

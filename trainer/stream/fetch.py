"""Chunks from a dataset's store, checked against the ledger, within a bounded time.

A read that fails or is damaged is made again, with growing pauses. A read that does not answer cannot be ended from
outside: it runs in a thread of its own, which is left behind. After half of the time a second read joins it, as a
connection that has died in silence is the usual cause; the first whole answer counts. When all of the time is over, an
error names the object. obstore retries what a store refuses, for up to five minutes; these retries are within one read.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from typing import TypeAlias

import pyarrow as pa

from schemas.dataset import Dataset
from schemas.errors import EncodeOnceError, MissingObjectError, StorageError
from schemas.ledger import part_path
from schemas.parts import check_chunk
from trainer.stream.cache import ChunkCache
from trainer.stream.catalog import ChunkRef
from trainer.stream.fetch_stats import FetchCounters, FetchStats
from trainer.stream.single_flight import SingleFlight
from trainer.stream.spare_threads import SpareThreads

_log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.2

_Answers: TypeAlias = "queue.SimpleQueue[pa.Buffer | BaseException]"


class ChunkFetcher:
    """Reads the chunks of one dataset; threads may share it.

    Args:
        dataset: Where the chunks are.
        attempts: Reads of a chunk that may fail or be damaged before the error is raised.
        timeout_seconds: Bound on fetching a chunk, all attempts and pauses included.
        cache: Where to look first; None for none.
        on_event: Told, in words, of every read that had to be made again. Default: a warning in the log.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        attempts: int,
        timeout_seconds: float,
        cache: ChunkCache | None,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        self._store = dataset.store
        self._attempts = attempts
        self._timeout_seconds = timeout_seconds
        self._cache = cache
        self._on_event = _log.warning if on_event is None else on_event
        self._threads = SpareThreads("stream-fetch")
        self._flights: SingleFlight[pa.Buffer] = SingleFlight()
        self._counters = FetchCounters()

    @property
    def stats(self) -> FetchStats:
        """What reading has cost so far."""
        return self._counters.snapshot()

    def fetch(self, ref: ChunkRef) -> pa.Buffer:
        """A chunk's stored bytes, their checksum verified.

        Raises:
            MissingObjectError: The part does not exist.
            DamagedDataError: Every read was short or damaged.
            StorageError: Every read failed, or none answered in time.
        """
        return self._flights.call(_cache_name(ref), lambda: self._read_until_whole(ref))

    def _read_until_whole(self, ref: ChunkRef) -> pa.Buffer:
        started = time.monotonic()
        deadline, join_at = started + self._timeout_seconds, started + self._timeout_seconds / 2
        answers: _Answers = queue.SimpleQueue()
        failures: list[EncodeOnceError] = []
        self._start(ref, answers, use_cache=True)
        while True:
            now = time.monotonic()
            if now >= deadline:
                raise _timed_out(self._where(ref), ref, self._timeout_seconds, failures)
            if now >= join_at:
                join_at = deadline
                self._again(ref, f"no answer for {self._timeout_seconds / 2:g} s")
                # Not by way of the cache: its disk may be what has stalled.
                self._start(ref, answers, use_cache=False)
            try:
                answer = answers.get(timeout=max(0.0, min(deadline, join_at) - time.monotonic()))
            except queue.Empty:
                continue
            if not isinstance(answer, BaseException):
                return answer
            if not isinstance(answer, EncodeOnceError):
                raise answer
            failures.append(answer)
            if isinstance(answer, MissingObjectError) or len(failures) == self._attempts:
                raise _after(failures)
            pause = _FIRST_PAUSE_SECONDS * 2 ** (len(failures) - 1)
            time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
            self._again(ref, answer.actual)
            self._start(ref, answers, use_cache=True)

    def _start(self, ref: ChunkRef, answers: _Answers, *, use_cache: bool) -> None:
        def read() -> None:
            try:
                answers.put(self._read(ref, self._cache if use_cache else None))
            except BaseException as error:
                answers.put(error)

        self._threads.run(read)

    def _read(self, ref: ChunkRef, cache: ChunkCache | None) -> pa.Buffer:
        data = None if cache is None else self._read_cached(ref, cache)
        if data is None:
            data = self._read_stored(ref)
            if cache is not None:
                cache.put(_cache_name(ref), data)
        return data

    def _read_stored(self, ref: ChunkRef) -> pa.Buffer:
        chunk = ref.chunk
        data = self._store.get_buffer(part_path(ref.shard, ref.part.name), chunk.offset, chunk.num_bytes)
        self._counters.add(num_reads=1, read_bytes=data.size)
        check_chunk(data, chunk, where=self._where(ref))
        return data

    def _read_cached(self, ref: ChunkRef, cache: ChunkCache) -> pa.Buffer | None:
        name = _cache_name(ref)
        data = cache.get(name)
        if data is not None:
            try:
                # On every read: a disk can spoil what was whole at the first, and it costs less than the read itself.
                check_chunk(data, ref.chunk, where=cache.locate(name))
            except EncodeOnceError as error:
                self._counters.add(num_cache_damaged=1)
                self._on_event(f"{error.where} is damaged ({error.actual}) and is fetched again")
                cache.drop(name)
                data = None
        self._counters.add(**{"num_cache_misses" if data is None else "num_cache_hits": 1})
        return data

    def _again(self, ref: ChunkRef, reason: str) -> None:
        self._counters.add(num_rereads=1)
        self._on_event(f"{self._where(ref)} is read again: {reason}")

    def _where(self, ref: ChunkRef) -> str:
        return f"{self._store.locate(part_path(ref.shard, ref.part.name))} at byte {ref.chunk.offset}"


def _cache_name(ref: ChunkRef) -> str:
    """By content: the same part of another copy of the dataset has the same chunks."""
    return f"{ref.part.sha256}-{ref.chunk.offset}"


def _after(failures: list[EncodeOnceError]) -> EncodeOnceError:
    """The last failure; says how often the same was tried."""
    last = failures[-1]
    if len(failures) == 1:
        return last
    actual = f"{last.actual}, after {len(failures)} reads"
    return type(last)(last.code, where=last.where, expected=last.expected, actual=actual, remedy=last.remedy)


def _timed_out(where: str, ref: ChunkRef, seconds: float, failures: list[EncodeOnceError]) -> StorageError:
    earlier = f"; earlier: {failures[-1].actual}" if failures else ""
    return StorageError(
        "read-timeout",
        where=where,
        expected=f"{ref.chunk.num_bytes:,} bytes within {seconds:g} s",
        actual=f"the store has not answered{earlier}",
        remedy="check the store and the network, then resume; raise --stream.read-timeout-seconds for a slow one",
    )

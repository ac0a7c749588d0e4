"""What reading has cost so far."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class FetchStats:
    """Totals since a fetcher was made.

    Attributes:
        num_reads: Ranged reads from the dataset's store that were answered in full.
        read_bytes: Their bytes.
        num_rereads: Reads that were made because an earlier one failed, was damaged or did not answer.
        num_cache_hits: Chunks found in the cache, whole.
        num_cache_misses: Chunks looked for in the cache and not found, or found damaged.
        num_cache_damaged: Cache entries that were damaged, and dropped.
    """

    num_reads: int = 0
    read_bytes: int = 0
    num_rereads: int = 0
    num_cache_hits: int = 0
    num_cache_misses: int = 0
    num_cache_damaged: int = 0

    def __add__(self, other: FetchStats) -> FetchStats:
        """The totals of two fetchers."""
        return FetchStats(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


class FetchCounters:
    """`FetchStats` that several threads add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stats = FetchStats()

    def add(self, **counts: int) -> None:
        """Adds to fields of `FetchStats`."""
        with self._lock:
            self._stats = replace(self._stats, **{name: getattr(self._stats, name) + n for name, n in counts.items()})

    def snapshot(self) -> FetchStats:
        """The totals as they are now."""
        with self._lock:
            return self._stats

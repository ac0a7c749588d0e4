"""Ranks as threads of the test: for what ranks tell each other, without processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")
_PATIENCE_SECONDS = 20


@dataclass
class _Meeting:
    barrier: threading.Barrier
    values: dict[int, list[float]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)


@dataclass
class ThreadRank:
    """What `trainer.distributed.Distributed` is to a process; a rank that waits in vain fails."""

    rank: int
    world_size: int
    meeting: _Meeting

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def store(self) -> ThreadRank:
        return self

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def set(self, key: str, value: str) -> None:
        self.meeting.stored[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.meeting.stored[key]

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        self.meeting.values[self.rank] = [float(value) for value in values]
        self.meeting.barrier.wait(_PATIENCE_SECONDS)
        found = [self.meeting.values[rank] for rank in range(self.world_size)]
        self.meeting.barrier.wait(_PATIENCE_SECONDS)
        return found

    def wait_for_all(self) -> None:
        self.gather([0.0])


def on_ranks(world_size: int, work: Callable[[Any], Result]) -> list[Result | Exception]:
    """Runs `work(rank)` on every rank; gives each one's result, or what it raised."""
    meeting = _Meeting(threading.Barrier(world_size))

    def guarded(rank: int) -> Result | Exception:
        try:
            return work(ThreadRank(rank, world_size, meeting))
        except Exception as error:
            return error

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(guarded, range(world_size)))

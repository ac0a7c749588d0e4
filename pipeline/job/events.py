"""What the loop tells while it runs, and what it answers at the end.

A worker is one actor process; workers are numbered from 0 in the order they were started and a number is never used
twice. All times are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class WorkerReady:
    """A worker has booted and may be given units."""

    worker: int
    info: Mapping[str, Any]
    """What the actor's `ready()` answered."""
    seconds: float


@dataclass(frozen=True)
class WorkerBootFailed:
    """A worker died or raised before it was ready."""

    worker: int
    reason: str
    failures_in_a_row: int
    retry_in_seconds: float | None
    """None when its place is given up, and the job goes on with the other workers."""


@dataclass(frozen=True)
class WorkerLost:
    """A worker that had been ready is gone: it died, or was killed because it hung or could not be used any more."""

    worker: int
    reason: str


@dataclass(frozen=True)
class WaitingForWorkers:
    """No worker is ready. Sent again and again while that lasts."""

    seconds: float
    cluster: Mapping[str, float]
    """Resources of the whole cluster, as Ray counts them."""
    available: Mapping[str, float]


@dataclass(frozen=True)
class UnitStarted:
    """A worker was given a unit."""

    unit: str
    attempt: int
    """1 for the first."""
    worker: int


@dataclass(frozen=True)
class UnitDone:
    """A unit has a result."""

    unit: str
    attempt: int
    worker: int
    seconds: float
    result: Any


@dataclass(frozen=True)
class UnitRetried:
    """An attempt gave no result; the unit is tried again after all untouched ones."""

    unit: str
    attempt: int
    worker: int
    reason: str
    counted: bool
    """False if the attempt was lost with its node, or with a worker that had another unit too: that blames no unit."""
    traceback: str
    """Of the exception, where there was one; otherwise empty."""


@dataclass(frozen=True)
class UnitFailure:
    """A unit that was given up."""

    unit: str
    attempts: int
    reasons: tuple[str, ...]
    """One for each attempt, in order."""


@dataclass(frozen=True)
class UnitFailed:
    """A unit was given up; the job goes on."""

    failure: UnitFailure
    worker: int
    traceback: str


@dataclass(frozen=True)
class Straggler:
    """A unit takes far longer than the others. Sent once for an attempt; nothing is done about it."""

    unit: str
    worker: int
    seconds: float
    median_seconds: float


@dataclass(frozen=True)
class WorkerProgress:
    """Live figures of a busy worker."""

    worker: int
    figures: Any
    """What the actor's `progress()` answered."""


@dataclass(frozen=True)
class Stopping:
    """No more units are given; those in flight may still finish."""

    reason: str
    in_flight: int


@dataclass(frozen=True)
class Tick:
    """Sent every `progress_seconds`, whatever happens."""

    num_ready: int
    """Workers that can work: idle and busy ones."""
    num_booting: int
    num_busy: int


Event = (
    WorkerReady
    | WorkerBootFailed
    | WorkerLost
    | WaitingForWorkers
    | UnitStarted
    | UnitDone
    | UnitRetried
    | UnitFailed
    | Straggler
    | WorkerProgress
    | Stopping
    | Tick
)


@dataclass
class LoopResult:
    """What became of every unit: each is in exactly one of the four."""

    done: dict[str, Any] = field(default_factory=dict)
    """Results by unit, in the order they came."""
    failures: list[UnitFailure] = field(default_factory=list)
    interrupted: list[str] = field(default_factory=list)
    """Begun, but stopped before a result: in flight at the end of the grace time, or waiting for another attempt."""
    not_started: list[str] = field(default_factory=list)
    stopped: str | None = None
    """Why the loop stopped before everything was done or given up; None if it did not."""

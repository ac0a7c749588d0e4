"""The loop's events in words, for those that are worth a line."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch

from pipeline.job.events import (
    Event,
    Stopping,
    Straggler,
    UnitFailed,
    UnitRetried,
    WaitingForWorkers,
    WorkerBootFailed,
    WorkerLost,
    WorkerReady,
)
from schemas.printable import printable

_MAX_REASON_CHARACTERS = 300


def event_line(event: Event) -> str | None:
    """One line about an event, or None for one that is everyday."""
    text = _line(event)
    # Names come from buckets: what steers a terminal is shown, not obeyed.
    return None if text is None else printable(text)


@singledispatch
def _line(event: object) -> str | None:
    del event
    return None


@_line.register
def _(event: WorkerReady) -> str:
    device = f" on {event.info['device']}" if "device" in event.info else ""
    warning = f"; {event.info['warning']}" if event.info.get("warning") else ""
    return f"worker {event.worker} is ready{device} after {event.seconds:.0f} s{warning}"


@_line.register
def _(event: WorkerBootFailed) -> str:
    then = "its place is given up" if event.retry_in_seconds is None else f"again in {event.retry_in_seconds:.0f} s"
    return f"worker {event.worker} did not start ({then}): {_short(event.reason)}"


@_line.register
def _(event: WorkerLost) -> str:
    return f"worker {event.worker} is lost and will be replaced: {_short(event.reason)}"


@_line.register
def _(event: WaitingForWorkers) -> str:
    return (
        f"no worker is ready after {event.seconds:.0f} s; the cluster has {_amounts(event.cluster)}, "
        f"free {_amounts(event.available)}"
    )


@_line.register
def _(event: UnitRetried) -> str:
    return f"shard {event.unit}: attempt {event.attempt} failed, will be tried again: {_short(event.reason)}"


@_line.register
def _(event: UnitFailed) -> str:
    failure = event.failure
    return f"shard {failure.unit}: given up after {failure.attempts} attempts: {_short(failure.reasons[-1])}"


@_line.register
def _(event: Straggler) -> str:
    return (
        f"shard {event.unit}: straggling on worker {event.worker}, {event.seconds:.0f} s so far "
        f"where {event.median_seconds:.0f} s are usual"
    )


@_line.register
def _(event: Stopping) -> str:
    return f"stopping: {_short(event.reason)}; {event.in_flight} shards in flight may finish"


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))


def _short(reason: str) -> str:
    one_line = " ".join(reason.split())
    return one_line if len(one_line) <= _MAX_REASON_CHARACTERS else one_line[: _MAX_REASON_CHARACTERS - 3] + "..."

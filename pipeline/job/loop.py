"""Units through workers: a short loop of our own over plain Ray actors.

Ray places, starts and buries the processes; what is worth retrying, and how often, is decided here. One unit is in
flight on a worker, and only on a worker that said it is ready, so that a death has exactly one suspect. Ray's own
restarts and retries are off: they neither count attempts nor know which input kills.

An actor has three methods:

- `ready()` does the slow part of booting (loading weights) and answers a small dict; `node_id` in it, from
  `ray.get_runtime_context().get_node_id()`, lets a lost node be told from a unit that kills. Booting belongs here and
  not in `__init__`: Ray keeps the exception of a method, and only the text of one from `__init__`.
- `run(unit, attempt)` answers a small result, or raises. An exception with a true attribute `needs_new_worker` has
  the worker replaced.
- `progress()` answers live figures or None. It is called while `run` works, so it needs a concurrency group of its own.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import ray

from pipeline.job.crew import Crew, Worker
from pipeline.job.events import (
    Event,
    LoopResult,
    Stopping,
    Straggler,
    Tick,
    UnitDone,
    UnitFailed,
    UnitProgress,
    UnitRetried,
    UnitStarted,
)
from pipeline.job.faults import Fault, fault_of
from pipeline.job.loop_config import LoopConfig
from pipeline.job.units import UnitQueue

_MIN_DONE_FOR_MEDIAN = 3
_DONE_REMEMBERED = 1001


def run_units(
    units: Iterable[str],
    make_actor: Callable[[], Any],
    config: LoopConfig,
    on_event: Callable[[Event], None],
    should_stop: Callable[[], bool],
) -> LoopResult:
    """Runs every unit to a result, or to its last attempt. Ray must be connected.

    Args:
        units: Ids, each once; may be lazy and long.
        make_actor: Starts an actor (`Class.options(max_restarts=0, max_task_retries=0, ...).remote(...)`).
        on_event: Called with each event, in this thread; it must be quick.
        should_stop: Asked several times a second; once true, no more units are given.

    Returns:
        What became of each unit. A unit that failed is no exception here.

    Raises:
        EncodeOnceError: An actor's `ready()` raised it: what stops one worker from starting would stop them all.
        WorkerBootError: No worker starts.
    """
    loop = _Loop(units, make_actor, config, on_event, should_stop)
    try:
        return loop.run()
    finally:
        loop.crew.dismiss()


class _Loop:
    def __init__(
        self,
        units: Iterable[str],
        make_actor: Callable[[], Any],
        config: LoopConfig,
        on_event: Callable[[Event], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self.config = config
        self.queue = UnitQueue(units, config.max_attempts, config.max_lost_attempts)
        self.crew = Crew(make_actor, config, on_event)
        self.result = LoopResult()
        self._emit = on_event
        self._should_stop = should_stop
        self._stop_since: float | None = None
        self._failures_in_a_row = 0
        self._seconds_done: deque[float] = deque(maxlen=_DONE_REMEMBERED)
        self._last_watch = self._last_progress = time.monotonic()

    def run(self) -> LoopResult:
        while self._has_work():
            if self._stop_since is None:
                if self._should_stop():
                    self._stop("a stop was asked for")
                else:
                    self.crew.recruit(len(self.crew.busy) + self.queue.num_waiting(self.config.num_workers))
                    self._assign()
            self._collect()
            now = time.monotonic()
            if now - self._last_watch >= self.config.tick_seconds:
                self._last_watch = now
                self._watch(now)
            if now - self._last_progress >= self.config.progress_seconds:
                self._last_progress = now
                self._report()
        self.result.interrupted += [worker.unit for worker in self.crew.busy.values()]
        self.result.not_started, waiting = self.queue.drain()
        self.result.interrupted += waiting
        return self.result

    def _has_work(self) -> bool:
        if self._stop_since is None:
            return bool(self.crew.busy) or self.queue.num_waiting(1) > 0
        return bool(self.crew.busy) and time.monotonic() - self._stop_since < self.config.stop_grace_seconds

    def _stop(self, reason: str) -> None:
        self._stop_since = time.monotonic()
        self.result.stopped = reason
        self.crew.dismiss_waiting()
        self._emit(Stopping(reason, len(self.crew.busy)))

    def _assign(self) -> None:
        live = self.crew.idle.keys() | {worker.number for worker in self.crew.busy.values()}
        for worker in list(self.crew.idle.values()):
            taken = self.queue.take(worker.number, live)
            if taken is not None:
                self.crew.give(worker, *taken)
                self._emit(UnitStarted(*taken, worker.number))

    def _collect(self) -> None:
        """Waits a little for something to happen, and deals with all that did."""
        for ref in self.crew.wait(self.config.tick_seconds):
            if ref in self.crew.booting:
                self.crew.boot_ended(ref)
                continue
            worker = self.crew.busy[ref]
            unit, attempt, seconds = worker.unit, worker.attempt, time.monotonic() - worker.since
            try:
                result = ray.get(ref)
            except Exception as error:
                self._attempt_failed(worker, fault_of(error, worker.node_id))
                continue
            self.crew.set_idle(worker, failed=False)
            self.queue.forget(unit)
            self.result.done[unit] = result
            self._failures_in_a_row = 0
            self._seconds_done.append(seconds)
            self._emit(UnitDone(unit, attempt, worker.number, seconds, result))

    def _attempt_failed(self, worker: Worker, fault: Fault) -> None:
        unit, attempt = worker.unit, worker.attempt
        if fault.needs_new_worker or worker.failures_in_a_row + 1 >= self.config.max_worker_failures:
            self.crew.replace(worker, fault.reason)
        else:
            self.crew.set_idle(worker, failed=True)
        failure = self.queue.fail(unit, worker.number, fault.reason, counted=fault.blames_unit)
        if failure is None:
            self._emit(UnitRetried(unit, attempt, worker.number, fault.reason, fault.blames_unit, fault.traceback))
        else:
            self.result.failures.append(failure)
            self._emit(UnitFailed(failure, worker.number, fault.traceback))
        self._failures_in_a_row += fault.blames_unit and attempt == 1  # At the end only the bad ones are left.
        limit = self.config.max_failures_in_a_row
        if limit is not None and self._failures_in_a_row >= limit and self._stop_since is None:
            self._stop(f"{limit} units failed in a row and none was done; the last: {fault.reason}")

    def _watch(self, now: float) -> None:
        """Stragglers, hung units, and a cluster that gives no workers."""
        limit = self._straggler_seconds()
        for worker in list(self.crew.busy.values()):
            seconds = now - worker.since
            timeout = self.config.unit_timeout_seconds
            if timeout is not None and seconds > timeout:
                reason = f"hung: no result within {timeout:g} s"
                self._attempt_failed(worker, Fault(reason, "", None, True, blames_unit=True))
            elif limit is not None and seconds > limit and not worker.is_straggler:
                worker.is_straggler = True
                median = statistics.median(self._seconds_done)
                self._emit(Straggler(worker.unit, worker.number, seconds, median))
        if self._stop_since is None:
            self.crew.watch(now)

    def _straggler_seconds(self) -> float | None:
        if len(self._seconds_done) < _MIN_DONE_FOR_MEDIAN:
            return None
        median = statistics.median(self._seconds_done)
        return max(self.config.straggler_floor_seconds, self.config.straggler_factor * median)

    def _report(self) -> None:
        crew = self.crew
        if self.config.find_room is not None:
            crew.widen(self.config.find_room())
        for worker, figures in crew.poll():
            self._emit(UnitProgress(worker.unit, worker.number, figures))
        self._emit(Tick(len(crew.idle) + len(crew.busy), len(crew.booting), len(crew.busy)))

"""Units through workers: a short loop of our own over plain Ray actors.

Ray places, starts and buries the processes; what is worth retrying, and how often, is decided here. A unit is in
flight only on a worker that said it is ready, and alone there unless it is its first attempt: a death is blamed on a
unit only where there is exactly one suspect. Ray's own restarts and retries are off: they neither count attempts nor
know which input kills.

An actor has three methods:

- `ready()` does the slow part of booting (loading weights) and answers a small dict; `node_id` in it, from
  `ray.get_runtime_context().get_node_id()`, lets a lost node be told from a unit that kills. Booting belongs here and
  not in `__init__`: Ray keeps the exception of a method, and only the text of one from `__init__`.
- `run(unit, attempt)` answers a small result, or raises. An exception with a true attribute `needs_new_worker` has
  the worker replaced; one with `stops_job`, such as that of a full disk, ends the job and blames no unit. With
  `units_per_worker` above 1 it is called while another call runs.
- `progress()` answers live figures or None. It is called while `run` works, so it needs a concurrency group of its own.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import ray

from pipeline.job.crew import Crew, Flight
from pipeline.job.events import (
    Event,
    LoopResult,
    Stopping,
    Straggler,
    Tick,
    UnitDone,
    UnitFailed,
    UnitRetried,
    UnitStarted,
    WorkerProgress,
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
        self.result.interrupted += [flight.unit for flight in self.crew.flights.values()]
        self.result.not_started, waiting = self.queue.drain()
        self.result.interrupted += waiting
        return self.result

    def _has_work(self) -> bool:
        if self._stop_since is None:
            return bool(self.crew.flights) or self.queue.num_waiting(1) > 0
        return bool(self.crew.flights) and time.monotonic() - self._stop_since < self.config.stop_grace_seconds

    def _stop(self, reason: str) -> None:
        self._stop_since = time.monotonic()
        self.result.stopped = reason
        self.crew.dismiss_waiting()
        self._emit(Stopping(reason, len(self.crew.flights)))

    def _assign(self) -> None:
        ready = self.crew.ready
        for worker in self.crew.idle:
            taken = self.queue.take(worker.number, ready.keys())
            if taken is not None:
                self.crew.give(worker, *taken)
                self._emit(UnitStarted(*taken, worker.number))
        if self.config.units_per_worker == 1:
            return
        for worker in ready.values():
            room = self.config.units_per_worker - len(worker.flights)
            while worker.flights and room > 0:
                # So many must be left that no other worker has nothing to do because this one has two. A unit that is
                # tried again is alone by this too: it is not, before no untouched one is left.
                unit = self.queue.take_untouched(num_left=len(ready) + len(self.crew.booting))
                if unit is None:
                    return
                self.crew.give(worker, unit, 1)
                self._emit(UnitStarted(unit, 1, worker.number))
                room -= 1

    def _collect(self) -> None:
        """Waits a little for something to happen, and deals with all that did."""
        failed: list[tuple[Flight, Fault]] = []
        for ref in self.crew.wait(self.config.tick_seconds):
            if ref in self.crew.booting:
                self.crew.boot_ended(ref)
                continue
            flight = self.crew.flights[ref]
            try:
                result = ray.get(ref)
            except Exception as error:
                failed.append((flight, fault_of(error, flight.worker.node_id)))
            else:
                self._done(flight, result)
        # Later: what a worker had finished before it died is done.
        for flight, fault in failed:
            if flight.call in self.crew.flights:
                self._attempt_failed(flight, fault)

    def _done(self, flight: Flight, result: Any) -> None:
        seconds = time.monotonic() - flight.since
        self.crew.landed(flight, failed=False)
        self.queue.forget(flight.unit)
        self.result.done[flight.unit] = result
        self._failures_in_a_row = 0
        self._seconds_done.append(seconds)
        self._emit(UnitDone(flight.unit, flight.attempt, flight.worker.number, seconds, result))

    def _attempt_failed(self, flight: Flight, fault: Fault) -> None:
        worker = flight.worker
        others = [other for other in worker.flights if other is not flight]
        # An exception names its unit; a death or a hang does not.
        has_one_suspect = fault.cause is not None or not others
        if fault.needs_new_worker or worker.failures_in_a_row + 1 >= self.config.max_worker_failures:
            self.crew.replace(worker, fault.reason)
        else:
            self.crew.landed(flight, failed=True)
            others = []
        self._note_failure(flight, fault, counted=fault.blames_unit and has_one_suspect)
        for other in others:
            self._note_failure(other, fault, counted=False)
        if fault.stops_job and self._stop_since is None:
            self._stop(fault.reason)
        self._failures_in_a_row += fault.blames_unit and flight.attempt == 1  # At the end only the bad ones are left.
        limit = self.config.max_failures_in_a_row
        if limit is not None and self._failures_in_a_row >= limit and self._stop_since is None:
            self._stop(f"{limit} units failed in a row and none was done; the last: {fault.reason}")

    def _note_failure(self, flight: Flight, fault: Fault, *, counted: bool) -> None:
        number, reason = flight.worker.number, fault.reason
        if fault.blames_unit and not counted:
            reason = f"{reason}; not alone on its worker, so nothing is known of the cause"
        failure = self.queue.fail(flight.unit, number, reason, counted=counted)
        if failure is None:
            self._emit(UnitRetried(flight.unit, flight.attempt, number, reason, counted, fault.traceback))
        else:
            self.result.failures.append(failure)
            self._emit(UnitFailed(failure, number, fault.traceback))

    def _watch(self, now: float) -> None:
        """Stragglers, hung units, and a cluster that gives no workers."""
        limit = self._straggler_seconds()
        for worker in self.crew.busy:
            flight = worker.flights[0]
            seconds = now - flight.since
            timeout = self.config.unit_timeout_seconds
            if timeout is not None and seconds > timeout:
                reason = f"hung: no result within {timeout:g} s"
                self._attempt_failed(flight, Fault(reason, "", None, True, blames_unit=True))
            elif limit is not None and seconds > limit and not flight.is_straggler:
                flight.is_straggler = True
                median = statistics.median(self._seconds_done)
                self._emit(Straggler(flight.unit, worker.number, seconds, median))
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
            self._emit(WorkerProgress(worker.number, figures))
        self._emit(Tick(len(crew.ready), len(crew.booting), len(crew.busy)))

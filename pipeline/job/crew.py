"""The workers of a job: booting, idle or busy; the dead replaced, but not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray

from pipeline.job.events import Event, WaitingForWorkers, WorkerBootFailed, WorkerLost, WorkerReady
from pipeline.job.faults import fault_of
from pipeline.job.loop_config import LoopConfig
from schemas.errors import EncodeOnceError, StorageError

_MAX_BOOT_RETRY_SECONDS = 30.0
_CLUSTER_SECONDS = 1.0
"""After so long without a ready worker it is looked whether there is a cluster."""


class WorkerBootError(EncodeOnceError):
    """No worker of the job starts."""


@dataclass(eq=False)
class Worker:
    """One actor process."""

    number: int
    actor: Any
    booting_since: float
    node_id: str | None = None
    flights: list[Flight] = field(default_factory=list)
    """In the order in which they were given: it works on the first and may prepare the others."""
    failures_in_a_row: int = 0
    poll: Any = None
    """A `progress()` call that was not answered yet."""


@dataclass(eq=False)
class Flight:
    """An attempt at a unit, on a worker."""

    worker: Worker
    unit: str
    attempt: int
    call: Any
    """Of `run()`."""
    since: float
    """When it became the first of its worker's."""
    is_straggler: bool = False


class Crew:
    """Keeps as many workers as there is work for, up to the configured number."""

    def __init__(self, make_actor: Callable[[], Any], config: LoopConfig, on_event: Callable[[Event], None]) -> None:
        self.booting: dict[Any, Worker] = {}
        """By the reference of `ready()`."""
        self.ready: dict[int, Worker] = {}
        """Idle and busy ones, by number."""
        self.flights: dict[Any, Flight] = {}
        """By the reference of `run()`."""
        self._make_actor = make_actor
        self._config = config
        self._emit = on_event
        self._num_started = 0
        self._num_places = self._num_room = config.num_workers
        self._boot_failures = 0
        self._boot_not_before = 0.0
        self._none_ready_since = self._last_warning = time.monotonic()

    @property
    def idle(self) -> list[Worker]:
        """Those that have booted and have nothing to do."""
        return [worker for worker in self.ready.values() if not worker.flights]

    @property
    def busy(self) -> list[Worker]:
        """Those that have something in flight."""
        return [worker for worker in self.ready.values() if worker.flights]

    def recruit(self, num_wanted: int) -> None:
        """Starts workers until there are `num_wanted`, as far as places and the pause after a failed boot allow."""
        if time.monotonic() < self._boot_not_before:
            return
        while len(self.booting) + len(self.ready) < min(num_wanted, self._num_places):
            actor = self._make_actor()
            worker = Worker(self._num_started, actor, time.monotonic())
            self._num_started += 1
            self.booting[actor.ready.remote()] = worker

    def widen(self, num_places: int) -> None:
        """The cluster has room for so many workers; those there is less room for keep their places."""
        grown = num_places - self._num_room
        if grown > 0:
            self._num_room += grown
            self._num_places += grown

    def wait(self, timeout_seconds: float) -> list[Any]:
        """References of boots and units that ended, all there are, after waiting for the first."""
        refs = [*self.booting, *self.flights]
        if not refs:
            time.sleep(timeout_seconds)
            return []
        ended, _ = ray.wait(refs, num_returns=1, timeout=timeout_seconds)
        if ended and len(refs) > 1:
            ended, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        return list(ended)

    def give(self, worker: Worker, unit: str, attempt: int) -> None:
        """Has a worker run a unit, beside what it has."""
        flight = Flight(worker, unit, attempt, worker.actor.run.remote(unit, attempt), time.monotonic())
        worker.flights.append(flight)
        self.flights[flight.call] = flight

    def landed(self, flight: Flight, *, failed: bool) -> None:
        """An attempt has ended, and its worker lives."""
        worker = flight.worker
        del self.flights[flight.call]
        was_first = worker.flights[0] is flight
        worker.flights.remove(flight)
        if was_first and worker.flights:
            worker.flights[0].since = time.monotonic()
        worker.failures_in_a_row = worker.failures_in_a_row + 1 if failed else 0
        worker.poll = None  # Its answer would count this attempt once more.

    def replace(self, worker: Worker, reason: str) -> None:
        """A busy worker is dead or cannot be used: makes sure of it, and leaves its place free."""
        for flight in worker.flights:
            del self.flights[flight.call]
        del self.ready[worker.number]
        _kill(worker)
        if not self.ready:
            self._none_ready_since = self._last_warning = time.monotonic()
        self._emit(WorkerLost(worker.number, reason))

    def boot_ended(self, ref: Any) -> None:
        """A worker is ready, or failed to boot.

        Raises:
            EncodeOnceError: What `ready()` raised, when no worker could do better.
            WorkerBootError: The last place for a worker is given up.
        """
        worker = self.booting.pop(ref)
        now = time.monotonic()
        try:
            info = ray.get(ref)
        except Exception as error:
            self._boot_failed(worker, error)
            return
        self._boot_failures = 0
        worker.node_id = info.get("node_id")
        self.ready[worker.number] = worker
        self._emit(WorkerReady(worker.number, info, now - worker.booting_since))

    def watch(self, now: float) -> None:
        """Warns, and at last gives up, while no worker is ready.

        Raises:
            WorkerBootError: None was ready for `boot_timeout_seconds`, or the cluster has lost its only node.
        """
        if self.ready:
            self._none_ready_since = self._last_warning = now
            return
        seconds = now - self._none_ready_since
        if seconds >= _CLUSTER_SECONDS and not self._config.nodes_can_join and not any(n["Alive"] for n in ray.nodes()):
            raise WorkerBootError(
                "cluster-lost",
                where="the Ray cluster that this run has started",
                expected="its one node to live",
                actual="it is dead, and its workers with it",
                remedy="run the same command again, it resumes; if nobody killed Ray's raylet, look for want of memory",
            )
        timeout = self._config.boot_timeout_seconds
        if timeout is not None and seconds >= timeout:
            raise WorkerBootError(
                "workers-not-ready",
                where=f"{len(self.booting)} workers that were asked for",
                expected=f"one of them to be ready within {timeout:g} s",
                actual=f"none is; the cluster has {_numbers(ray.cluster_resources())}, "
                f"free are {_numbers(ray.available_resources())}",
                remedy="ask for less per worker, free or add nodes, or allow more time for booting",
            )
        if now - self._last_warning >= self._config.boot_warning_seconds:
            self._last_warning = now
            self._emit(WaitingForWorkers(seconds, ray.cluster_resources(), ray.available_resources()))

    def poll(self) -> list[tuple[Worker, Any]]:
        """Live figures that have arrived since the last call; asks again. Never waits."""
        asked = {worker.poll: worker for worker in self.busy if worker.poll is not None}
        answered = ray.wait(list(asked), num_returns=len(asked), timeout=0)[0] if asked else []
        figures = []
        for ref in answered:
            worker = asked[ref]
            worker.poll = None
            try:
                answer = ray.get(ref)
            except Exception:  # Whatever it is, the unit's own reference will tell.
                continue
            if answer is not None:
                figures.append((worker, answer))
        for worker in self.busy:
            if worker.poll is None:
                worker.poll = worker.actor.progress.remote()
        return figures

    def dismiss_waiting(self) -> None:
        """Ends the workers that have no unit."""
        idle = self.idle
        for worker in [*self.booting.values(), *idle]:
            _kill(worker)
        self.booting.clear()
        for worker in idle:
            del self.ready[worker.number]

    def dismiss(self) -> None:
        """Ends all workers."""
        self.dismiss_waiting()
        for worker in self.ready.values():
            _kill(worker)
        self.ready.clear()
        self.flights.clear()

    def _boot_failed(self, worker: Worker, error: Exception) -> None:
        _kill(worker)
        fault = fault_of(error, None)
        # A store that is down may come back; nothing else that a user must mend does.
        if isinstance(fault.cause, EncodeOnceError) and not isinstance(fault.cause, StorageError):
            raise fault.cause
        self._boot_failures += 1
        pause: float | None = None
        if self._boot_failures < self._config.max_boot_failures:
            pause = min(_MAX_BOOT_RETRY_SECONDS, self._config.boot_retry_seconds * 2 ** (self._boot_failures - 1))
            self._boot_not_before = time.monotonic() + pause
        else:
            self._num_places -= 1
        self._emit(WorkerBootFailed(worker.number, fault.reason, self._boot_failures, pause))
        if pause is not None or self.booting or self.ready:
            return
        if isinstance(fault.cause, EncodeOnceError):
            raise fault.cause
        raise WorkerBootError(
            "worker-boot-failed",
            where=f"worker {worker.number}",
            expected="the worker to load its encoders and report that it is ready",
            actual=f"{self._boot_failures} workers in a row failed to start; the last: {fault.reason}",
            remedy="mend the cause named above; the worker's own output is in Ray's log folder on its node",
        )


def _kill(worker: Worker) -> None:
    try:
        ray.kill(worker.actor)
    except Exception:  # Already gone, or Ray itself is: either way there is nothing left to end.
        return


def _numbers(resources: dict[str, float]) -> str:
    shown = {name: resources[name] for name in ("CPU", "GPU") if name in resources}
    return ", ".join(f"{amount:g} {name}" for name, amount in shown.items()) or "neither CPU nor GPU"

"""Runs a job to its end under a schedule: does the faults, gives the command again when its driver is gone."""

from __future__ import annotations

import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.job import DONE, SOME_QUARANTINED, Driver, Job, scratch_folder
from tests.chaos.processes import Process
from tests.chaos.schedule import Fault, Schedule

LONGEST_SECONDS = 1800.0
_POLL_SECONDS = 0.004
_LOOK_SECONDS = 0.1


class ChaosFailure(AssertionError):
    """Something that must hold does not."""


@dataclass
class Outcome:
    """What happened.

    Attributes:
        done: Faults that found something to be done to, by kind.
        recovery_seconds: By kind, the time from a fault to the next shard committed.
        exit_statuses: Of every driver in order; negative for a signal.
        seconds: From the first command to the last one's end.
    """

    done: Counter[str] = field(default_factory=Counter)
    recovery_seconds: dict[str, list[float]] = field(default_factory=dict)
    exit_statuses: list[int] = field(default_factory=list)
    seconds: float = 0.0


def run(job: Job, schedule: Schedule, log: Path) -> Outcome:
    """Runs it.

    Raises:
        ChaosFailure: It does not end, ends in a way that it must not, or leaves processes behind.
    """
    with scratch_folder() as scratch:
        one = _Run(job, schedule, scratch, log)
        try:
            return one.run()
        finally:
            one.driver.end()


class _Run:
    def __init__(self, job: Job, schedule: Schedule, scratch: Path, log: Path) -> None:
        self._job = job
        self._scratch = scratch
        self._log = log
        self._left = list(schedule.faults)
        self._outcome = Outcome()
        self._began = time.monotonic()
        self._paused: list[tuple[float, Process]] = []
        self._gone: list[Driver] = []
        self._recovering: tuple[str, float, int] | None = None
        self._since = self._began
        self._changes = 0
        self._names: set[str] = set()
        self._next_look = 0.0
        self._members: list[Process] = []
        self.driver = Driver(job, scratch, log)
        self._reset_wait()

    def run(self) -> Outcome:
        while True:
            if time.monotonic() - self._began > LONGEST_SECONDS:
                raise ChaosFailure(f"not at its end after {LONGEST_SECONDS:.0f} s\n{self.driver.output()[-4000:]}")
            self._look()
            self._resume_paused()
            status = self.driver.status()
            if status is None:
                self._next_fault()
            elif self._ended(status):
                return self._finished()
            time.sleep(_POLL_SECONDS)

    def _look(self) -> None:
        """At the dataset each time, at the processes now and then, for that takes longer."""
        now = time.monotonic()
        names = self._job.names() if self._left and self._left[0].changes else set()
        self._changes += names != self._names
        self._names = names
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        self._members = self.driver.members()
        if self._recovering is not None:
            kind, since, committed = self._recovering
            if self._job.num_committed() > committed:
                self._outcome.recovery_seconds.setdefault(kind, []).append(round(now - since, 2))
                self._recovering = None

    def _next_fault(self) -> None:
        if not self._left:
            return
        fault, now = self._left[0], time.monotonic()
        targets = self._targets(fault)
        if not targets:
            self._reset_wait()
        elif now - self._since >= fault.wait_seconds and self._changes > fault.changes:
            self._do(fault, targets[int(fault.choice * len(targets))])
            self._left.pop(0)
            self._reset_wait()

    def _reset_wait(self) -> None:
        self._since = time.monotonic()
        # The first look at the files counts as a change, whatever it sees.
        self._changes = 0 if self._left and self._left[0].changes else 1
        self._names = set()

    def _targets(self, fault: Fault) -> list[Process]:
        if fault.kind.endswith("driver"):
            return [self.driver.process]
        paused = {process for _, process in self._paused}
        wanted = [one for one in self._members if (one.is_raylet if "raylet" in fault.kind else one.is_actor)]
        return [one for one in wanted if one not in paused and one.lives()]

    def _do(self, fault: Fault, target: Process) -> None:
        now = time.monotonic()
        if fault.kind == "kill-driver":
            self._outcome.done[fault.kind] += self.driver.status() is None
            self.driver.kill()
        elif fault.kind.startswith("kill"):
            self._outcome.done[fault.kind] += target.signal(signal.SIGKILL)
        elif target.signal(signal.SIGSTOP):
            self._outcome.done[fault.kind] += 1
            self._paused.append((now + fault.pause_seconds, target))
        if self._recovering is None:
            self._recovering = (fault.kind, now, self._job.num_committed())

    def _resume_paused(self) -> None:
        now = time.monotonic()
        for due, process in list(self._paused):
            if now >= due:
                process.signal(signal.SIGCONT)
                self._paused.remove((due, process))

    def _ended(self, status: int) -> bool:
        """Whether the job is at its end; if not, gives the command again."""
        self._outcome.exit_statuses.append(status)
        if status in (DONE, SOME_QUARANTINED):
            return True
        # A driver may only fail after something was done to it or to Ray's raylet, and each such thing is done once.
        cause = self._outcome.done["kill-driver"] + self._outcome.done["kill-raylet"]
        if len(self._outcome.exit_statuses) > cause:
            raise ChaosFailure(f"the driver ended by itself with status {status}\n{self.driver.output()[-4000:]}")
        self._gone.append(self.driver)
        self.driver = Driver(self._job, self._scratch, self._log)
        self._reset_wait()
        return False

    def _finished(self) -> Outcome:
        self._outcome.seconds = round(time.monotonic() - self._began, 1)
        for driver in (*self._gone, self.driver):
            if left := driver.survivors():
                raise ChaosFailure(f"processes outlive their driver: {left}")
        if folders := sorted(str(path) for path in self._scratch.glob("encode-once-*/ray")):
            raise ChaosFailure(f"private folders are left: {folders}")
        return self._outcome

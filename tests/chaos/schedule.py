"""What happens to a run, and when: drawn from a seed alone, so that a failure can be had again.

The schedule is fixed by the seed; when exactly a fault finds the job, and so what it hits, is up to the machine.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill-actor", "kill-driver", "kill-raylet", "pause-actor", "pause-driver"]
Container = Literal["arrow", "webdataset"]

_LONGEST_WAIT_SECONDS = {
    "kill-actor": 6.0,
    "kill-driver": 14.0,
    "kill-raylet": 14.0,
    "pause-actor": 6.0,
    "pause-driver": 8.0,
}
"""An actor's fault counts from when there is one, the others from the driver's start: Ray, the loading of encoders and
the encoding of a few shards fit in."""


@dataclass(frozen=True)
class Fault:
    """One thing done to a running job.

    Attributes:
        kind: What is done, with SIGKILL, or with SIGSTOP and later SIGCONT.
        wait_seconds: How long after the last fault's end, or the start of what it is done to.
        changes: After the wait, how many changes of the dataset's files are waited for: a fault just after one finds
            more that can be torn. 0: none.
        pause_seconds: How long a paused process stands still.
        choice: Which of several processes, as a fraction of their number.
    """

    kind: Kind
    wait_seconds: float
    changes: int
    pause_seconds: float
    choice: float

    def __str__(self) -> str:
        pause = f" for {self.pause_seconds:.1f} s" if self.kind.startswith("pause") else ""
        return f"{self.kind}{pause} after {self.wait_seconds:.2f} s and {self.changes} changes, {self.choice:.2f}"


@dataclass(frozen=True)
class Schedule:
    """One run's faults, in order."""

    seed: int
    number: int
    """Of the run: one seed has many."""
    container: Container
    shards_per_worker: int
    """That a worker has in hand at a time."""
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        in_hand = f"{self.shards_per_worker} shards in hand"
        lines = [f"seed {self.seed}, run {self.number}, container {self.container}, {in_hand}"]
        return "\n".join([*lines, *(f"  {number}. {fault}" for number, fault in enumerate(self.faults, 1))])


def draw(seed: int, number: int, counts: Mapping[Kind, int], *, longest_wait: float | None = None) -> Schedule:
    """A schedule with so many faults of each kind, in random order.

    Args:
        seed: Of all.
        number: Of the run; even ones write Arrow files, odd ones tars; every other pair has two shards in hand.
        counts: How many of each kind.
        longest_wait: Bound on every wait, s.
    """
    source = random.Random(f"{seed}/{number}")
    kinds = [kind for kind in sorted(counts) for _ in range(counts[kind])]
    source.shuffle(kinds)
    faults = tuple(_fault(kind, source, longest_wait) for kind in kinds)
    return Schedule(seed, number, "webdataset" if number % 2 else "arrow", 1 + number // 2 % 2, faults)


def _fault(kind: Kind, source: random.Random, longest_wait: float | None) -> Fault:
    longest = min(_LONGEST_WAIT_SECONDS[kind], longest_wait or _LONGEST_WAIT_SECONDS[kind])
    after_a_change = source.random() < 0.5
    return Fault(
        kind=kind,
        wait_seconds=round(source.uniform(0.0, 0.1 if after_a_change else longest), 3),
        changes=source.randint(1, 3) if after_a_change else 0,
        pause_seconds=round(source.uniform(0.5, 5.0), 2),
        choice=source.random(),
    )

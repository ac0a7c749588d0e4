"""How the loop treats workers and units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class LoopConfig:
    """How the loop treats workers and units."""

    num_workers: int
    """Actors at a time; fewer are started when there are fewer units."""
    find_room: Callable[[], int] | None = None
    """Asked every `progress_seconds`: for how many workers there is room now. A job whose cluster has grown takes more
    workers than `num_workers`; it never takes fewer. None: `num_workers` it is."""
    units_per_worker: int = 1
    """More than one: while there are more untouched units than workers, a worker is given its next ones early, so that
    it can prepare them and finish the one before at its leisure. Only first attempts share a worker: should it die,
    nobody knows which unit it was, none is blamed, and each is tried again alone."""
    max_attempts: int = 3
    """A unit is given up after this many failed attempts."""
    max_lost_attempts: int = 10
    """A unit is also given up after this many attempts when lost nodes, which count for no fault, are included."""
    max_boot_failures: int = 5
    """A worker's place is given up after this many failed boots in a row; with no worker left the job ends."""
    boot_retry_seconds: float = 1.0
    """Pause after a failed boot, doubled with each in a row, up to 30 s: a GPU is not free at once after a death."""
    boot_timeout_seconds: float | None = 1800.0
    """The job ends when for so long no worker was ready, None to wait for ever (an autoscaler, a queue)."""
    nodes_can_join: bool = True
    """Whether a cluster without a node may get one: not one of our own, so there the job ends at once."""
    boot_warning_seconds: float = 30.0
    """How often `WaitingForWorkers` is sent while no worker is ready."""
    max_worker_failures: int = 3
    """A worker whose units raised this many times in a row is replaced: it may be the worker."""
    max_failures_in_a_row: int | None = 25
    """The job stops when so many units failed at their first attempt with none done between them: then it is not the
    units (a full disk, lost credentials), and giving them up one by one would only hide it. None: never."""
    straggler_factor: float = 5.0
    """A unit that runs longer than this many times the median of those done is a straggler."""
    straggler_floor_seconds: float = 60.0
    """A unit that runs shorter than this is none."""
    unit_timeout_seconds: float | None = None
    """A unit that runs longer has its worker killed, and the attempt counts. None: never."""
    stop_grace_seconds: float = 60.0
    """How long units in flight may go on after a stop was asked for."""
    progress_seconds: float = 2.0
    """How often workers are asked for live figures, and `Tick` is sent."""
    tick_seconds: float = 0.25
    """How often a stop and timeouts are looked for while nothing happens."""

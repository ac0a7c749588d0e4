"""Runs the loop over workers that misbehave on purpose, on a real local Ray; FOLDER/report.json says what happened.

Run by test_loop.py in a process of its own.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ray

from pipeline.job.cluster import connect
from pipeline.job.loop import run_units
from pipeline.job.loop_config import LoopConfig
from schemas.errors import EncodeOnceError, IdentityMismatchError, StorageError, StorageFullError

QUICK = LoopConfig(
    num_workers=2,
    boot_retry_seconds=0.05,
    boot_warning_seconds=0.3,
    stop_grace_seconds=300.0,
    progress_seconds=0.2,
    tick_seconds=0.05,
)
"""Pauses are short. What ends something that hangs is set where it is tried, far above what other units take on a busy
machine."""

_HUNG_SECONDS = 8.0


class CudaLikeError(RuntimeError):
    """Stands for what torch raises when the device is lost."""


class SpentWorkerError(RuntimeError):
    """Says of itself that the process cannot go on."""

    needs_new_worker = True


@ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"live": 1, "units": 2})
class Actor:
    """What a unit does is the part of its name before the dash.

    The driver tells it of what it waits for by files in the folder: `ready.N`, N workers are; `straggler.UNIT`, the
    unit was announced as one and has shown its figures.
    """

    def __init__(self, folder: str, boot: str = "") -> None:
        self.folder = Path(folder)
        self.boot = boot
        self.unit = ""
        self.met: set[str] = set()

    def ready(self) -> dict[str, Any]:
        boot, _, argument = self.boot.partition(":")
        if boot == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if boot == "mismatch":
            raise IdentityMismatchError(
                "identity-differs", where="t5.source", expected="a", actual="b", remedy="use another output"
            )
        if boot == "die-at-first" and not self._seen_before(argument):
            os.kill(os.getpid(), signal.SIGKILL)
        if boot == "store-down":
            raise StorageError("storage-failed", where="s3://x", expected="an answer", actual="none", remedy="wait")
        if boot == "hang":
            time.sleep(600)
        return {"pid": os.getpid(), "node_id": ray.get_runtime_context().get_node_id()}

    @ray.method(concurrency_group="units")
    def run(self, unit: str, attempt: int) -> dict[str, int]:
        self.unit = unit
        what, _, _ = unit.partition("-")
        first_time = not self._seen_before(unit)
        if what == "kill" or (what == "killonce" and first_time):
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "exit":
            sys.exit(3)
        elif what == "full":
            raise StorageFullError("storage-full", where="x", expected="room", actual="none", remedy="make room")
        elif what == "enospc":
            raise OSError(errno.ENOSPC, "No space left on device")
        elif what == "meet":  # Done when another is in hand on this worker.
            self._meet(unit)
        elif what == "raise":
            raise ValueError(f"cannot read {unit}")
        elif what == "cuda" and first_time:
            raise CudaLikeError("CUDA error: an illegal memory access was encountered")
        elif what == "spent" and first_time:
            raise SpentWorkerError("out of luck")
        elif what == "hang":
            time.sleep(600)
        elif what == "slow":
            time.sleep(1.5)
        elif what == "straggle":
            self._wait_for(f"straggler.{unit}")
        elif what == "both":  # Done when the driver has heard of two workers.
            self._wait_for("ready.2")
        elif what == "brief":
            time.sleep(0.1)
        return {"pid": os.getpid(), "attempt": attempt}

    def _meet(self, unit: str) -> None:
        self.met.add(unit)
        while len(self.met) < 2:
            time.sleep(0.01)

    def _wait_for(self, name: str) -> None:
        while not (self.folder / name).exists():
            time.sleep(0.01)

    @ray.method(concurrency_group="live")
    def progress(self) -> str:
        return self.unit

    def _seen_before(self, name: str) -> bool:
        try:
            (self.folder / name).touch(exist_ok=False)
        except FileExistsError:
            return True
        return False


def play(
    folder: Path,
    units: Iterable[str],
    *,
    boot: str = "",
    num_cpus: float = 0.5,
    stop_after: int | None = None,
    on_event: Callable[[Any], None] | None = None,
    **config: Any,
) -> dict[str, Any]:
    """One run of the loop; what it did, for JSON."""
    events: list[dict[str, Any]] = []
    num_done = num_actors = 0

    def make_actor() -> Any:
        nonlocal num_actors
        num_actors += 1
        return Actor.options(num_cpus=num_cpus).remote(str(folder), boot)

    def note(event: Any) -> None:
        nonlocal num_done
        name = type(event).__name__
        num_done += name == "UnitDone"
        if name == "WorkerReady":
            num_ready = 1 + sum(seen["event"] == name for seen in events)
            (folder / f"ready.{num_ready}").touch()
        announced = {seen["unit"] for seen in events if seen["event"] == "Straggler"}
        if name == "WorkerProgress" and event.figures in announced:
            (folder / f"straggler.{event.figures}").touch()
        events.append({"event": name} | {key: value for key, value in vars(event).items() if key != "cluster"})
        if on_event is not None:
            on_event(event)

    began = time.monotonic()
    answer: dict[str, Any] = {}
    try:
        result = run_units(
            units,
            make_actor,
            dataclasses.replace(QUICK, **config),
            note,
            lambda: stop_after is not None and num_done >= stop_after,
        )
        answer = dataclasses.asdict(result)
    except EncodeOnceError as error:
        answer = {"raised": type(error).__name__, "code": error.code, "actual": error.actual}
    answer["events"] = events
    answer["num_actors"] = num_actors
    answer["seconds"] = time.monotonic() - began
    return answer


def kill_worker_at(unit: str) -> Callable[[Any], None]:
    """Kills, from outside, the worker that is given `unit` for the first time."""
    pids: dict[int, int] = {}

    def on_event(event: Any) -> None:
        if type(event).__name__ == "WorkerReady":
            pids[event.worker] = event.info["pid"]
        if type(event).__name__ == "UnitStarted" and event.unit == unit and event.attempt == 1:
            os.kill(pids[event.worker], signal.SIGKILL)

    return on_event


def scenarios(folder: Path) -> dict[str, Any]:
    """All of them, on one connection to Ray."""
    fine = [f"fine-{number}" for number in range(8)]
    found: dict[str, Any] = {}

    def scene(name: str, units: Iterable[str], **options: Any) -> None:
        own = folder / name
        own.mkdir()
        found[name] = play(own, units, **options)

    scene("no_fault", fine)
    scene("no_units", [])
    scene("killed_from_outside", ["slow-0", *fine], on_event=kill_worker_at("slow-0"))
    scene("poison", ["kill-0", *fine])
    scene("exits", ["exit-0", *fine[:2]])
    # The first worker is busy until the driver has heard of the second, however late that is on a loaded machine.
    scene("raises", ["both-0", "raise-0", *fine])
    scene("device_lost", ["cuda-0", "spent-0", *fine])
    scene("hangs", ["hang-0", *fine], unit_timeout_seconds=_HUNG_SECONDS, max_attempts=2)
    scene("boots_die", fine, boot="die", max_boot_failures=3)
    scene("first_boot_dies", fine, boot="die-at-first:x", num_workers=1)
    scene("mismatch", fine, boot="mismatch")
    scene("store_down", fine, boot="store-down", max_boot_failures=2)
    scene("boot_hangs", fine, boot="hang", boot_timeout_seconds=3.0)
    scene("stop", (f"brief-{number}" for number in range(100_000)), stop_after=4)
    scene("stop_cuts_off", ["fine-0", "hang-0", *fine[1:4], "hang-1", "fine-9"], stop_after=4, stop_grace_seconds=0.3)
    scene("straggler", [*fine, "straggle-0", "straggle-1"], straggler_floor_seconds=_HUNG_SECONDS)
    scene("all_fail", (f"raise-{number}" for number in range(1000)), max_failures_in_a_row=5)
    two = {"units_per_worker": 2, "num_workers": 1}
    scene("two_in_hand", ["meet-0", "meet-1", *fine], **two)
    scene("two_poison", ["kill-0", "slow-0", *fine], **two)
    scene("two_raise", ["raise-0", *fine], **two)
    scene("two_hang", ["hang-0", *fine], unit_timeout_seconds=_HUNG_SECONDS, max_attempts=2, **two)
    scene("two_all_die", (f"kill-{number}" for number in range(1000)), max_failures_in_a_row=3, **two)
    scene("two_stop", (f"brief-{number}" for number in range(1000)), stop_after=4, **two)
    scene("two_for_two", ["both-0", "both-1", "both-2"], units_per_worker=2)
    scene("store_full", ["full-0", "slow-0", *fine])
    scene("disk_full", ["enospc-0"], max_attempts=1)
    scene("many", (f"fine-{number}" for number in range(2000)))
    return found


def main(folder: Path) -> None:
    """Connects, plays, reports."""
    with connect("local", num_cpus=2, log_to_driver=False):
        found = scenarios(folder)
    # Not to stdout: Ray prints there too.
    (folder / "report.json").write_text(json.dumps(found, default=vars))

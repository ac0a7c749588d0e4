"""Runs of one seed until there were enough kills, each compared with the undisturbed run of its container."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from schemas.errors import EncodeOnceError
from tests.chaos.job import DONE, SOME_QUARANTINED, Job
from tests.chaos.oracle import Poison, require, require_same
from tests.chaos.runner import Outcome, run
from tests.chaos.schedule import Container, Kind, Schedule, draw
from tests.integration.commands import ENCODE_SECONDS, start
from tests.integration.commands import run as run_command

POISONS = {
    "kill": Poison("00001-kills", "worker process died"),
    "raise": Poison("00002-raises", "RuntimeError: cannot encode 00002-raises"),
    "hang": Poison("00003-hangs", "hung: no result within"),
}


@dataclass(frozen=True)
class Campaign:
    """What is run.

    Attributes:
        seed: Of all schedules.
        kills: Runs go on until so many actors and so many drivers were killed.
        counts: Faults of a run, by kind.
        num_shards: Tars that can be encoded.
        samples_per_shard: Rows of each.
        poisons: Which poisonous tars lie among them.
        max_attempts: Of a shard.
        shard_timeout_seconds: After which a shard's worker hangs.
        longest_wait: Bound on the waits between faults, s.
    """

    seed: int
    kills: int
    counts: Mapping[Kind, int]
    num_shards: int = 12
    samples_per_shard: int = 30
    poisons: tuple[str, ...] = ("kill", "raise", "hang")
    max_attempts: int = 4
    shard_timeout_seconds: float = 20.0
    longest_wait: float | None = None
    max_runs: int = 50


def carry_out(campaign: Campaign, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Does it all; what happened, as a JSON document.

    Args:
        campaign: What is run.
        folder: For tars, datasets and logs; those of a run that failed stay.
        say: Told of each run.
    """
    good, mixed = _inputs(campaign, folder)
    done: Counter[str] = Counter()
    runs: list[dict[str, Any]] = []
    recovery: dict[str, list[float]] = {}
    began = time.monotonic()
    while min(done["kill-actor"], done["kill-driver"]) < campaign.kills and len(runs) < campaign.max_runs:
        schedule = draw(campaign.seed, len(runs), campaign.counts, longest_wait=campaign.longest_wait)
        report, outcome = _one(campaign, schedule, good, mixed, folder)
        runs.append(report)
        say(f"run {schedule.number}: {json.dumps({k: v for k, v in report.items() if k != 'schedule'})}")
        if outcome is None:
            break
        done.update(outcome.done)
        for kind, seconds in outcome.recovery_seconds.items():
            recovery.setdefault(kind, []).extend(seconds)
    return {
        "seed": campaign.seed,
        "campaign": asdict(campaign),
        "result": "ok" if all(report["result"] == "ok" for report in runs) else "failed",
        "faults": dict(done),
        "recovery_seconds": {kind: _spread(seconds) for kind, seconds in recovery.items()},
        "seconds": round(time.monotonic() - began, 1),
        "runs": runs,
    }


def _one(
    campaign: Campaign, schedule: Schedule, good: Path, mixed: Path, folder: Path
) -> tuple[dict[str, Any], Outcome | None]:
    own, expected = folder / f"run-{schedule.number}", folder / f"expected-{schedule.container}"
    own.mkdir()
    job = Job(
        mixed,
        own / "dataset",
        schedule.container,
        max_attempts=campaign.max_attempts,
        shard_timeout_seconds=campaign.shard_timeout_seconds,
        shards_per_worker=schedule.shards_per_worker,
    )
    poisons = [POISONS[name] for name in campaign.poisons]
    report: dict[str, Any] = {"run": schedule.number, "container": schedule.container, "schedule": str(schedule)}
    try:
        with _undisturbed(good, expected, schedule.container):
            outcome = run(job, schedule, own / "log.txt")
        status = SOME_QUARANTINED if poisons else DONE
        require(outcome.exit_statuses[-1] == status, f"exit status {status}", outcome.exit_statuses)
        # A run in which something failed leaves the objects of dead attempts: they may not be dead yet.
        again = run_command(*job.arguments(), expect=status)
        require("Nothing to encode" in again, "nothing left to do for the same command", again)
        require_same(expected, job.dataset, poisons, campaign.max_attempts, own)
    except (AssertionError, EncodeOnceError) as failure:
        return report | {"result": "failed", "failure": f"{failure}\n{schedule}\n{own}"}, None
    shutil.rmtree(own)
    facts = {"result": "ok", "faults": dict(outcome.done), "exit_statuses": outcome.exit_statuses}
    return report | facts | {"seconds": outcome.seconds}, outcome


def _inputs(campaign: Campaign, folder: Path) -> tuple[Path, Path]:
    """The tars that can be encoded, and a folder where they lie among the poisonous ones."""
    good, mixed = folder / "tars", folder / "mixed"
    size = ("--num-shards", str(campaign.num_shards), "--samples-per-shard", str(campaign.samples_per_shard))
    run_command("demo-data", str(good), *size)
    shutil.copytree(good, mixed)
    for name in campaign.poisons:
        shutil.copy(good / "00000.tar", mixed / f"{POISONS[name].shard}.tar")
    return good, mixed


@contextmanager
def _undisturbed(tars: Path, dataset: Path, container: Container) -> Iterator[None]:
    """A run that nothing is done to, beside what is done meanwhile; at its end when this is. Only if there was none."""
    if dataset.exists():
        yield
        return
    # As many workers as the disturbed run has, so that each has as many threads: then values must be equal bit for bit.
    job = Job(tars, dataset, container)
    with start(*job.arguments()) as process, ThreadPoolExecutor(1) as reader:
        output = reader.submit(process.communicate)
        try:
            yield
        except BaseException:
            process.kill()
            raise
        printed, _ = output.result(ENCODE_SECONDS)
    require(process.returncode == DONE, "an undisturbed run", printed)


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(seconds), 1), "max": max(seconds), "count": len(seconds)}

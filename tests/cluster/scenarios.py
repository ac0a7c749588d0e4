"""What is done to a running cluster. Each returns figures; what must hold is asserted on the way."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster import jobs
from tests.cluster.bucket import BUCKET, copy_of
from tests.cluster.ray_hosts import RAY, REPOSITORY, RayHosts

_JOB_API = ("--address", "http://127.0.0.1:8265")
_NO_BLAME = ("--max-attempts", "1")
"""Who blames a shard for what its node did has it in quarantine at once."""


@dataclass
class Stage:
    """Where a scenario plays."""

    cluster: RayHosts
    tars: Path
    expected: dict[tuple[str, str], dict[str, Any]]
    """What an undisturbed job makes."""
    folder: Path
    num_played: int = 0

    def new(self, kind: str) -> tuple[str, Path]:
        """A name for a driver's log, and a dataset that is not there yet."""
        self.num_played += 1
        name = f"{kind}{self.num_played}"
        return name, self.folder / name


def node_added_then_killed(stage: Stage, moments: random.Random) -> dict[str, Any]:
    """A job submitted to a cluster of one node gets a second one while it runs, then loses the first outright."""
    cluster, (name, dataset) = stage.cluster, stage.new("killed")
    first = cluster.machines.living[-1]
    jobs.set_pace(stage.folder, 600.0)
    driver = _submitted(stage, name, dataset, *_NO_BLAME)
    wait_until(lambda: " is ready " in cluster.log(name).read_text(), "the first worker")
    second = cluster.add_node(**jobs.paced(stage.folder))
    wait_until(lambda: cluster.log(name).read_text().count(" is ready ") >= 2, "a worker on the node that was added")
    jobs.set_pace(stage.folder, 1.0)
    time.sleep(moments.uniform(0.0, 3.5))
    before = jobs.ledger(dataset)
    cluster.machines.kill(first)
    killed = time.monotonic()
    jobs.set_pace(stage.folder, 0.0)
    jobs.finish(cluster, driver, name)
    seconds = time.monotonic() - killed
    after = jobs.ledger(dataset)
    assert {path: after[path] for path in before} == before, "a committed record changed"
    assert second.name in jobs.writers(dataset)
    assert jobs.contents(dataset) == stage.expected
    assert jobs.left_over(dataset) == []
    return {"records_before": len(before), "seconds_to_end": round(seconds, 1)}


def stopped_then_resumed(stage: Stage) -> dict[str, Any]:
    """`ray job stop` on a job at work finishes the shards in flight; the same job, submitted again, does the rest."""
    cluster, (name, dataset) = stage.cluster, stage.new("stopped")
    jobs.set_pace(stage.folder, 2.0)
    _submitted(stage, name, dataset)
    wait_until(lambda: len(jobs.ledger(dataset)) >= 2, "the first shard")
    since = time.monotonic()
    # Waited for in the log: Ray 2.60 takes no job for stopped before RAY_JOB_STOP_WAIT_TIME_S are over.
    command = cluster.head.command([RAY, "job", "stop", "--no-wait", *_JOB_API, name])
    subprocess.run(command, env=cluster.environment(), cwd=REPOSITORY, check=True, capture_output=True, timeout=600)
    wait_until(lambda: "The same command resumes" in cluster.log(name).read_text(), "an orderly end")
    seconds = time.monotonic() - since
    assert "SIGTERM: finishing the shards in flight" in cluster.log(name).read_text()
    before = jobs.ledger(dataset)
    assert 2 < len(before) < jobs.NUM_RECORDS, len(before)
    jobs.set_pace(stage.folder, 0.0)
    again = f"{name}-again"
    jobs.finish(cluster, _submitted(stage, again, dataset), again)
    after = jobs.ledger(dataset)
    assert {path: after[path] for path in before} == before, "a committed record changed"
    assert jobs.contents(dataset) == stage.expected
    assert jobs.left_over(dataset) == []
    return {"records_before": len(before), "seconds_to_stop": round(seconds, 1)}


def zombie_behind_a_cut(stage: Stage) -> dict[str, Any]:
    """A writer is cut off between its look at the ledger and its record; when the job is done, it goes on."""
    cluster, (name, dataset) = stage.cluster, stage.new("zombie")
    hold = stage.folder / f"hold{stage.num_played}"
    hold.mkdir()
    good = cluster.machines.living[-1]
    victim = cluster.add_node(**jobs.paced(stage.folder, ENCODE_ONCE_HOLD=str(hold)))
    jobs.set_pace(stage.folder, 600.0)
    driver = cluster.driver(*jobs.encode(stage.tars, dataset, "--num-workers", "2", *_NO_BLAME), name=name)
    wait_until(lambda: cluster.log(name).read_text().count(" is ready ") >= 2, "both workers")
    jobs.set_pace(stage.folder, 0.5)
    wait_until((hold / "held").exists, "a commit on the victim")
    cluster.machines.cut(victim)
    since = time.monotonic()
    jobs.finish(cluster, driver, name)
    seconds = time.monotonic() - since
    before = jobs.ledger(dataset)
    assert jobs.contents(dataset) == stage.expected
    assert jobs.writers(dataset) == {good.name}
    cluster.machines.heal(victim)
    (hold / "release").touch()
    # Ray may end it as soon as it hears that it counts as dead; a longer life is the harder case.
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not (hold / "ended").exists():
        time.sleep(0.05)
    ended = (hold / "ended").read_text() if (hold / "ended").exists() else "ended by Ray"
    assert ended in ("committed: False", "ended by Ray")
    assert jobs.ledger(dataset) == before
    assert jobs.contents(dataset) == stage.expected
    cluster.machines.kill(victim)
    return {"seconds_to_end": round(seconds, 1), "zombie_went_on": ended == "committed: False"}


def cut_and_healed(stage: Stage, cut_seconds: float) -> dict[str, Any]:
    """A node is out of reach for a while, with work in flight."""
    cluster, (name, dataset) = stage.cluster, stage.new("cut")
    victim = cluster.add_node(**jobs.paced(stage.folder))
    jobs.set_pace(stage.folder, 600.0)
    driver = cluster.driver(*jobs.encode(stage.tars, dataset, "--num-workers", "2", *_NO_BLAME), name=name)
    wait_until(lambda: cluster.log(name).read_text().count(" is ready ") >= 2, "both workers")
    cluster.machines.cut(victim)
    since = time.monotonic()
    jobs.set_pace(stage.folder, 0.0)
    time.sleep(cut_seconds)
    cluster.machines.heal(victim)
    jobs.finish(cluster, driver, name)
    seconds = time.monotonic() - since
    assert jobs.contents(dataset) == stage.expected
    cluster.machines.kill(victim)
    return {"cut_seconds": cut_seconds, "seconds_to_end": round(seconds, 1)}


def two_drivers(stage: Stage, *, in_bucket: bool = False) -> dict[str, Any]:
    """The same command twice at the same moment: at most one goes on, and the dataset is sound."""
    cluster, (name, folder) = stage.cluster, stage.new("two")
    dataset = f"s3://{BUCKET}/{name}" if in_bucket else folder
    names = [f"{name}-{number}" for number in range(2)]
    drivers = [cluster.driver(*jobs.encode(stage.tars, dataset), name=each) for each in names]
    statuses = sorted(driver.wait(timeout=1200) for driver in drivers)
    outputs = [cluster.log(each).read_text() for each in names]
    # Both give way only where the store's clock cannot tell which came first.
    assert statuses in ([0, 1], [1, 1]), outputs
    assert sum("run-live" in output for output in outputs) == statuses.count(1), outputs
    if statuses == [1, 1]:
        jobs.finish(cluster, cluster.driver(*jobs.encode(stage.tars, dataset), name=name), name)
    if isinstance(dataset, str):
        copy_of(cluster, dataset, folder)
    assert jobs.contents(folder) == stage.expected
    assert jobs.left_over(folder) == []
    return {"refused": statuses.count(1)}


def _submitted(stage: Stage, name: str, dataset: Path, *options: str) -> subprocess.Popen[str]:
    """`ray job submit`, which prints what the job prints and ends with it; the job has the name of its log."""
    submit = [RAY, "job", "submit", *_JOB_API, "--submission-id", name, "--", sys.executable, "-m", "pipeline"]
    argv = [*submit, *jobs.encode(stage.tars, dataset, *options)]
    return stage.cluster.head.start(argv, variables=stage.cluster.environment(), log=stage.cluster.log(name))


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 1200) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)

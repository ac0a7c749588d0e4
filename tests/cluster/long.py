"""The long form: `python -m tests.cluster.long --kills 20 --cuts 2 --drivers 10 --output cluster.json`."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.cluster import jobs
from tests.cluster.bucket import SETTINGS, start_bucket
from tests.cluster.ray_hosts import QUICK_TO_NOTICE, ray_hosts
from tests.cluster.scenarios import (
    Stage,
    cut_and_healed,
    node_added_then_killed,
    stopped_then_resumed,
    two_drivers,
    zombie_behind_a_cut,
)


def main() -> int:
    """Exit status 1 if anything that must hold did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.long", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--kills", type=int, default=20, help="nodes to kill")
    parser.add_argument("--cuts", type=int, default=2, help="links cut for 30 s, and as many for ever")
    parser.add_argument("--stops", type=int, default=5, help="jobs to stop with `ray job stop`")
    parser.add_argument("--drivers", type=int, default=10, help="pairs of drivers that start at once")
    parser.add_argument("--output", type=Path, required=True, help="JSON document of what happened")
    options = parser.parse_args()
    # Asked to end, it ends what it has started too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.environ["OMP_NUM_THREADS"] = "1"
    moments = random.Random(options.seed)
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpus": len(os.sched_getaffinity(0)),
        **{name: version(name) for name in ("ray", "torch")},
    }
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        tars = jobs.make_inputs(Path(folder))
        for kind, count, settings, play in _plan(options, moments):
            report[kind] = []
            if count == 0:
                continue
            with ray_hosts(**settings) as cluster:
                if "AWS_ENDPOINT" in settings:
                    start_bucket(cluster)
                own = Path(folder, kind)
                own.mkdir()
                cluster.add_node(**jobs.paced(own))
                stage = Stage(cluster, tars, jobs.undisturbed(cluster, tars, own / "expected"), own)
                for _ in range(count):
                    report[kind].append(_played(stage, play))
                    print(kind, report[kind][-1], flush=True)
                    options.output.write_text(json.dumps(report, indent=1) + "\n")
    failed = [each for kind in report.values() if isinstance(kind, list) for each in kind if "failure" in each]
    return 1 if failed else 0


Play = Callable[[Stage], dict[str, Any]]


def _plan(options: argparse.Namespace, moments: random.Random) -> list[tuple[str, int, dict[str, str], Play]]:
    """What is played how often, with which settings of Ray's: cuts with its own, as a user's cluster has them."""
    return [
        ("node_kills", options.kills, QUICK_TO_NOTICE, lambda stage: node_added_then_killed(stage, moments)),
        ("job_stops", options.stops, QUICK_TO_NOTICE, stopped_then_resumed),
        ("cuts_of_30_s", options.cuts, {}, lambda stage: cut_and_healed(stage, 30.0)),
        ("cuts_for_ever", options.cuts, {}, zombie_behind_a_cut),
        ("two_drivers_on_a_folder", options.drivers, QUICK_TO_NOTICE, two_drivers),
        ("two_drivers_on_s3", options.drivers, QUICK_TO_NOTICE | SETTINGS, partial(two_drivers, in_bucket=True)),
    ]


def _played(stage: Stage, play: Play) -> dict[str, Any]:
    try:
        return play(stage)
    except AssertionError as error:
        return {"failure": str(error)[-3000:]}


if __name__ == "__main__":
    sys.exit(main())

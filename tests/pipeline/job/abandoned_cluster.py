"""A driver with a busy worker, to be killed: FOLDER/report.json says where its cluster lives, then it works on.

Run by test_cluster.py in a process of its own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import ray

from pipeline.job.cluster import connect


@ray.remote(num_cpus=1)
class Busy:
    """Never yields to anyone."""

    def pid(self) -> int:
        return os.getpid()

    def spin(self) -> None:
        while True:
            sum(range(10**6))


def main(folder: Path) -> None:
    """Does not return."""
    with connect(num_cpus=1):
        worker = Busy.remote()
        pid = ray.get(worker.pid.remote())
        endless = worker.spin.remote()
        found = {"worker": pid, "token": os.environ["RAY_AUTH_TOKEN_PATH"]}
        (folder / "writing").write_text(json.dumps(found))
        (folder / "writing").rename(folder / "report.json")
        ray.get(endless)

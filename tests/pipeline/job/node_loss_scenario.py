"""Loses a node of a small cluster while a unit runs on it, and writes what the loop made of it into FOLDER/report.json.

Run by test_loop.py in a process of its own, with `RAY_AUTH_MODE=token`, the token of the cluster to be in
`RAY_AUTH_TOKEN_PATH`, and a short `RAY_TMPDIR`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from pipeline.job.cluster import connect
from tests.pipeline.job.loop_scenarios import play


def main(folder: Path) -> None:
    """Two nodes with room for one worker each; the second is taken away under a slow unit, and a third is added."""
    machines = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False},
    )
    second = machines.add_node(num_cpus=1)
    nodes: dict[int, str] = {}
    lost: list[str] = []

    def on_event(event: Any) -> None:
        if type(event).__name__ == "WorkerReady":
            nodes[event.worker] = event.info["node_id"]
        # Every unit is slow, so that whichever worker is on the second node has one.
        if type(event).__name__ == "UnitStarted" and nodes[event.worker] == second.node_id and not lost:
            lost.append(event.unit)
            machines.remove_node(second, allow_graceful=False)
            machines.add_node(num_cpus=1)

    try:
        with connect(machines.address, log_to_driver=False) as cluster:
            assert len(cluster.nodes()) == 2
            report = play(
                folder, [f"slow-{number}" for number in range(4)], on_event=on_event, max_attempts=1, num_cpus=1
            )
    finally:
        machines.shutdown()
        ray.shutdown()
    (folder / "report.json").write_text(json.dumps(report | {"lost": lost}, default=vars))

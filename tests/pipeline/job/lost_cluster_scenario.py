"""Kills the raylet of a cluster of our own while its workers boot; FOLDER/report.json says what the loop made of it.

Run by test_lost_cluster.py in a process of its own.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

import psutil

from pipeline.job.cluster import connect
from tests.pipeline.job.loop_scenarios import play


def main(folder: Path) -> None:
    """Two workers that would boot for ten minutes, and no node to do it on."""
    with connect("local", num_cpus=2, log_to_driver=False) as cluster:
        (raylet,) = (one for one in psutil.Process().children(recursive=True) if one.name() == "raylet")
        timer = threading.Timer(2.0, raylet.kill)
        timer.start()
        report = play(folder, ["fine-0", "fine-1"], boot="hang", nodes_can_join=not cluster.is_local)
        timer.join()
    (folder / "report.json").write_text(json.dumps(report, default=vars))

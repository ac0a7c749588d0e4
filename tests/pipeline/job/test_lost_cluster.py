"""A cluster of our own that has lost its only node gets no other: the job ends, so that it can be begun again."""

from __future__ import annotations

from pathlib import Path

from tests.pipeline.job import ray_process


def test_a_job_whose_own_cluster_is_dead_ends(tmp_path: Path) -> None:
    scene = ray_process.report("tests.pipeline.job.lost_cluster_scenario", tmp_path)
    assert scene["raised"] == "WorkerBootError"
    assert scene["code"] == "cluster-lost"
    assert scene["seconds"] < 600, "it waited for the workers' boot"

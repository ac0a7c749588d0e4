"""The short form: one job under kills, with a poisonous tar among its inputs, ends as an undisturbed one does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos.campaign import Campaign, carry_out
from tests.chaos.schedule import draw

SHORT = Campaign(
    seed=20261123,
    kills=1,
    counts={"kill-actor": 2, "kill-driver": 1},
    num_shards=5,
    samples_per_shard=12,
    poisons=("raise",),
    max_attempts=3,
    shard_timeout_seconds=600.0,  # None of its inputs hangs; on a busy machine a shard takes its time.
    longest_wait=1.0,
    max_runs=3,
)


@pytest.mark.processor
@pytest.mark.timeout(3600)
def test_a_job_under_kills_leaves_what_an_undisturbed_one_leaves(tmp_path: Path) -> None:
    report = carry_out(SHORT, tmp_path, print)
    assert report["result"] == "ok", report["runs"][-1]["failure"]
    # One run, unless it was at its end before a kill's time: then there was another.
    assert min(report["faults"]["kill-actor"], report["faults"]["kill-driver"]) >= 1


def test_a_seed_has_one_schedule() -> None:
    schedules = [str(draw(seed, 0, {"kill-actor": 3, "pause-driver": 1})) for seed in (1, 1, 2)]
    assert schedules[0] == schedules[1] != schedules[2]
    assert json.dumps(schedules[0]).count("kill-actor") == 3

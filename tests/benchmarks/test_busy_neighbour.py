"""The benchmark of busy neighbours runs, and its figures are those of the work that was done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.busy_neighbour import Row


def test_it_runs(repository: Path, tmp_path: Path) -> None:
    options = ["--seconds", "0.2", "--repetitions", "1", "--settings", "project", "--output", f"{tmp_path}/found.json"]
    subprocess.run([sys.executable, "-m", "benchmarks.busy_neighbour", *options], cwd=repository, check=True)
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(row["work"], row["setting"]) for row in found["rows"]] == [("encode", "project"), ("train", "project")]
    for row in found["rows"]:
        assert [len(rates) for rates in row["rates"].values()] == [1, 1]
        assert all(rate > 0 for rates in row["rates"].values() for rate in rates)


def test_slowdown_is_of_the_medians() -> None:
    row = Row("train", "project", {0: [90.0, 100.0, 400.0], 1: [50.0, 1.0, 60.0], 2: [20.0]})
    assert row.facts()["slowdown"] == {1: 2.0, 2: 5.0}

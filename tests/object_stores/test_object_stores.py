"""A whole job on Ceph's S3 gateway, killed, refused, without room, and behind a faulty network.

Where Ceph's packages are not installed, moto stands in, which checks neither signatures nor quotas; in CI they must be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.object_stores.ceph import PROGRAMS, missing_programs


@pytest.mark.timeout(3600)
def test_a_job_on_an_object_store(repository: Path, tmp_path: Path) -> None:
    report = tmp_path / "store.json"
    command = [sys.executable, "-m", "tests.object_stores", "--short", "--shards", "6", "--output", str(report)]
    with subprocess.Popen(
        command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=3500)
        except BaseException:
            # Not killed, as `run` would: it has a store to end, and folders.
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    assert process.returncode == 0, output[-12000:]
    found = json.loads(report.read_text())
    expected = {
        "killed and resumed",
        "races",
        "full disk",
        "full disk of a worker",
        "500, 503 and SlowDown to 20 % of requests",
    }
    if found["server"] == "ceph":
        expected |= {"refused", "quota used up"}
    assert {name for name, figures in found.items() if isinstance(figures, dict)} == expected
    assert not [figures for figures in found.values() if isinstance(figures, dict) and "failure" in figures]


def test_ci_has_the_real_store() -> None:
    if "ENCODE_ONCE_REQUIRE_CEPH" not in os.environ and missing_programs():
        pytest.skip(f"not installed: {', '.join(missing_programs())} (Debian: radosgw ceph-mon ceph-osd ceph-common)")
    assert missing_programs() == [], f"of {PROGRAMS}"

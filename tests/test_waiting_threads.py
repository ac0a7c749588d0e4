"""Waiting threads of torch's pool spin only briefly, whichever package is imported first; the user's setting wins."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

IMPORTS = ("import pipeline.process_settings", "import trainer.distributed")


def spin_count(program: str, **variables: str) -> int:
    """Rounds that a waiting thread spins before it sleeps, as the OpenMP runtime tells when torch loads it."""
    own = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment = own | {"OMP_DISPLAY_ENV": "VERBOSE", **variables}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    found = re.findall(r"GOMP_SPINCOUNT = '(\w+)'", done.stderr)
    assert len(found) == 1, done.stderr
    return int(found[0])


@pytest.mark.parametrize("program", IMPORTS)
def test_waiting_threads_soon_sleep(program: str) -> None:
    assert spin_count(program) == 1500


@pytest.mark.parametrize("program", IMPORTS)
def test_the_users_setting_wins(program: str) -> None:
    assert spin_count(program, OMP_WAIT_POLICY="ACTIVE") > 10**6
    assert spin_count(program, OMP_WAIT_POLICY="PASSIVE") == 0
    assert spin_count(program, GOMP_SPINCOUNT="77") == 77

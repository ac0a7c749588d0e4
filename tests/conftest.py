"""What every test shares: no network, no telemetry, repeatable property tests, the place of the sources."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings

# Before any library reads them; processes that tests start inherit them. A test must not depend on what a hub or a
# cloud answers today, and must not report anything to anyone.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# `make test` uses `ci`: the same examples on every machine. `dev`, the default elsewhere, looks for new ones.
_SLOW_MACHINES = (HealthCheck.too_slow,)
settings.register_profile("dev", deadline=None, suppress_health_check=_SLOW_MACHINES)
settings.register_profile("ci", deadline=None, suppress_health_check=_SLOW_MACHINES, derandomize=True, max_examples=50)
settings.load_profile("dev")


def pytest_configure(config: pytest.Config) -> None:
    """Asked to end, the suite ends as after Ctrl-C: with what its tests have started, processes and folders."""
    has_workers = not hasattr(config, "workerinput") and bool(config.getoption("numprocesses", None))

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        # xdist would kill its workers before they have cleaned up.
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text() if has_workers else ""
        for child in children.split():
            os.kill(int(child), signal.SIGTERM)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder that holds pyproject.toml."""
    return Path(__file__).resolve().parent.parent

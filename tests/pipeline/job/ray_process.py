"""Starts a script of the Ray tests in a process of its own, with loopback as its only network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.loopback import loopback_command

_REPOSITORY = Path(__file__).resolve().parents[3]
_SECONDS = 1700
"""A script that hangs ends before its test does; one on a busy machine takes its time."""


def start(
    module: str, folder: Path, *, variables: Mapping[str, str] | None = None, cwd: Path = _REPOSITORY
) -> subprocess.Popen[str]:
    """Starts `main(folder)` of a module of this package. Nothing but `sys.path` tells it where the sources are."""
    code = (
        f"import sys; sys.path.insert(0, {str(_REPOSITORY)!r}); from {module} import main; from pathlib import Path; "
    )
    command = [sys.executable, "-c", f"{code}main(Path({str(folder)!r}))"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and "RAY" not in name}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", **(variables or {})}
    return subprocess.Popen(
        loopback_command(command), cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def report(
    module: str, folder: Path, *, variables: Mapping[str, str] | None = None, cwd: Path = _REPOSITORY
) -> dict[str, Any]:
    """Runs such a script to its end, and reads the `report.json` that it left."""
    with start(module, folder, variables=variables, cwd=cwd) as process:
        output, _ = process.communicate(timeout=_SECONDS)
    assert process.returncode == 0, output
    found = json.loads((folder / "report.json").read_text())
    assert isinstance(found, dict)
    return found

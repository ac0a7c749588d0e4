"""The commands as users run them: processes of their own, with loopback as their only network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.loopback import loopback_command

REPOSITORY = Path(__file__).resolve().parents[2]
ENCODE_SECONDS = 1200
"""A command that hangs ends; one on a busy machine takes its time."""


def environment(**variables: str) -> dict[str, str]:
    """A user's environment: one thread for a library, so that tests share two cores, and no setting of Ray's."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return own | {"OMP_NUM_THREADS": "1", **variables}


def start(*arguments: str, module: str = "pipeline", **variables: str) -> subprocess.Popen[str]:
    """Starts `python -m module arguments` from the repository's folder."""
    return subprocess.Popen(
        loopback_command([sys.executable, "-m", module, *arguments]),
        cwd=REPOSITORY,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*arguments: str, module: str = "pipeline", expect: int = 0, **variables: str) -> str:
    """Runs it to its end and returns what it printed, after checking its exit status."""
    with start(*arguments, module=module, **variables) as process:
        output, _ = process.communicate(timeout=ENCODE_SECONDS)
    assert process.returncode == expect, f"exit status {process.returncode}\n{output}"
    return output


def encode(inputs: Path, dataset: Path, *options: str, expect: int = 0, **variables: str) -> str:
    """`encode demo` with one worker."""
    where = ("--input", str(inputs), "--output", str(dataset))
    return run("encode", "demo", *where, "--num-workers", "1", *options, expect=expect, **variables)


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

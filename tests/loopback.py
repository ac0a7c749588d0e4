"""Runs a command where the only network is loopback.

Ray listens on the machine's own addresses, whatever it is told; a test must open no port that others can reach. A
network namespace of its own needs `unshare` and `ip`, and either root or user namespaces; where a machine lacks one of
them the command runs as it is, behind Ray's token.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence

_SCRIPT = 'ip link set lo up && exec "$@"'


def loopback_command(argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` with loopback alone, or `argv` itself where that cannot be had.

    The process that it starts becomes `argv`: signals to it reach the command itself.
    """
    return [*_namespace(), *argv]


@functools.cache
def _namespace() -> tuple[str, ...]:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return ()
    as_root = () if os.getuid() == 0 else ("--map-root-user",)
    prefix = ("unshare", "--net", *as_root, "sh", "-c", _SCRIPT, "sh")
    works = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    return prefix if works else ()

"""Ends what a killed driver leaves of its local cluster.

The kernel ends Ray's server and raylet with the driver, and workers end with the raylet; but Ray's agents then try for
up to a minute to report that to the server that is gone. So a small process waits for the driver's end on a pipe. If
the driver goes without a word, it kills every process that uses the cluster's private folder, and removes that.

This file is also that process's program: it runs on its own, with nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_GOODBYE = b"done"
_PATIENCE_SECONDS = 30.0


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Has a watchdog while a cluster lives in `folder`, which nothing else uses."""
    # In a session of its own, or a Ctrl-C would end it.
    command = [sys.executable, "-I", "-S", __file__, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdin is not None
        try:
            yield
        finally:
            with contextlib.suppress(BrokenPipeError):  # Somebody killed it; then nobody needs a goodbye.
                process.stdin.write(_GOODBYE)
                process.stdin.flush()


def _main(folder: Path) -> None:
    if sys.stdin.buffer.read() == _GOODBYE:
        return
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (members := _members(folder)) and time.monotonic() < deadline:
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def _members(folder: Path) -> list[int]:
    """Processes with a file of the folder open, as all of Ray's have their logs.

    Their environment would not tell: Ray's processes overwrite it with their titles.
    """
    inside = f"{folder}/"
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # Gone meanwhile, or another user's.
            if any(os.readlink(file).startswith(inside) for file in (process / "fd").iterdir()):
                found.append(int(process.name))
    return found


if __name__ == "__main__":
    _main(Path(sys.argv[1]))

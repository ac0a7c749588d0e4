"""A worker's own processor cores: workers on one machine agree, without a word, which are whose.

Ray counts cores and gives out numbers, not cores. Threads that wander cost the caches, and two workers on the same core
while another idles cost half of both. So each worker locks files that stand for cores, as many as its share, and keeps
all its threads on them. Locks go when the process goes, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO

_held: list[IO[bytes]] = []
"""Of this process, for as long as it lives."""


def pin_to_own_cores(num_cores: int, folder: Path | None = None) -> tuple[int, ...]:
    """Keeps all threads of this process, also later ones, on cores that no other worker of this user has.

    Args:
        num_cores: The worker's share.
        folder: Where the locks are; default: in the machine's temporary folder.

    Returns:
        The cores; none, and nothing is changed, if not so many are free, the system cannot do it (macOS), or there is
        no room for the locks.
    """
    if not hasattr(os, "sched_setaffinity"):
        return ()
    try:
        folder = folder or Path(tempfile.gettempdir()) / f"encode-once-cores-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return ()
    cores: list[int] = []
    locks: list[IO[bytes]] = []
    for core in sorted(os.sched_getaffinity(0)):
        if len(cores) == num_cores:
            break
        try:
            lock: IO[bytes] = (folder / str(core)).open("wb")
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        cores.append(core)
        locks.append(lock)
    if len(cores) < num_cores:
        for lock in locks:
            lock.close()
        return ()
    _held.extend(locks)
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(int(thread.name), cores)
    return tuple(cores)

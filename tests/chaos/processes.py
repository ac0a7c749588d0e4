"""The processes of a job: its driver, and what uses the private folder of the driver's Ray cluster."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

ACTOR = "ray::EncodeWorker"
"""How Ray titles an actor's process, followed by what it does."""


@dataclass(frozen=True)
class Process:
    """One process, told apart from a later one of the same number."""

    pid: int
    started: str
    title: str

    @property
    def is_actor(self) -> bool:
        return self.title.startswith(ACTOR)

    @property
    def is_raylet(self) -> bool:
        return Path(self.title.split(" ")[0]).name == "raylet"

    def lives(self) -> bool:
        """Whether it runs still; a dead one that only waits to be noticed does not."""
        return _started(self.pid) == self.started

    def signal(self, number: signal.Signals) -> bool:
        """Sends a signal; False if the process is gone."""
        if not self.lives():
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False


def users_of(folder: Path) -> list[Process]:
    """Processes with a file below a folder open or as their working folder, by number."""
    inside = f"{folder}/"
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # Gone meanwhile, or another user's.
            links = [*(entry / "fd").iterdir(), entry / "cwd"]
            if any(_target(link).startswith(inside) for link in links):
                found.append(process(int(entry.name)))
    return sorted((one for one in found if one is not None), key=lambda one: one.pid)


def process(pid: int) -> Process | None:
    """A living process by its number."""
    started = _started(pid)
    if started is None:
        return None
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    return Process(pid, started, title)


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]

"""Which process that is, so that another on the same machine can tell whether it is gone."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, told apart from any other that has or will have its number."""

    host: str
    pid: int
    started: str
    """Clock ticks from boot to the process's start; empty where the system does not say."""
    machine: str
    """Which boot of which machine, and which of its containers, so that process numbers can be compared; empty where
    the system does not say."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @classmethod
    def current(cls) -> ProcessIdentity:
        """This process."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _started(pid) or "", _machine())

    @classmethod
    def from_json(cls, value: object) -> ProcessIdentity | None:
        """What `to_json` gave, or None if it is anything else."""
        if not isinstance(value, dict) or value.keys() != cls.__annotations__.keys():
            return None
        if not isinstance(value["pid"], int) or not all(isinstance(value[k], str) for k in value if k != "pid"):
            return None
        return cls(**value)

    def to_json(self) -> dict[str, str | int]:
        """For a JSON document."""
        return asdict(self)

    def is_gone(self) -> bool:
        """True if the process has ended for certain; False if it lives, or nothing can be known of it from here."""
        if not self.machine or not self.started or (self.host, self.machine) != (socket.gethostname(), _machine()):
            return False
        return _started(self.pid) != self.started


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Start time of a living process; None for one that is gone, or dead and only waiting to be noticed."""
    try:
        # The second field, the name in brackets, may itself hold spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, started = fields[0], fields[19]
    return None if state in ("Z", "X") else started

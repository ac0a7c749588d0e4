"""Machines of our own on this one, for tests: each a network, a process table and a host name by itself.

A host is a set of kernel namespaces whose first process does nothing. Killing that process kills all of the host's at
once, as a power cut would. Hosts are joined by a switch in one more network namespace; nothing is added to this
machine's own network, and the addresses exist nowhere else. All of it goes with the process that made it, however that
ends: there is nothing to clean up.

Files are this machine's, but for `/dev/shm`, which every host has for itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

TOOLS = ("ip", "nsenter", "setpriv", "unshare")
_NETWORK = "10.213.77"
_APART = ("--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL", "--mount-proc")
_BOOT = "mount -t tmpfs -o size=512m tmpfs /dev/shm && hostname $0 && ip link set lo up && exec sleep infinity"


def why_not() -> str | None:
    """Why this machine can have no hosts; None if it can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: iproute2, util-linux)"
    if os.getuid() != 0:
        return "network namespaces need root"
    tried = subprocess.run(
        ["unshare", *_APART, "sh", "-c", _BOOT.replace("sleep infinity", "true"), "host"], check=False
    )
    return None if tried.returncode == 0 else "this kernel or container allows no namespaces"


def require_hosts() -> None:
    """Skips a test where there can be no hosts; fails it in CI, where there must be."""
    reason = why_not()
    if reason is not None and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)


@dataclass
class Host:
    """One machine."""

    name: str
    address: str
    init: int
    """Its first process, as this machine numbers it."""
    holder: subprocess.Popen[bytes]
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` on this host."""
        return ["nsenter", "--target", str(self.init), "--net", "--mount", "--pid", "--uts", "--ipc", "--", *argv]

    def start(self, argv: Sequence[str], *, variables: dict[str, str], log: Path) -> subprocess.Popen[str]:
        """Starts a command; what it prints goes to a file."""
        with open(log, "w") as output:
            process = subprocess.Popen(
                self.command(argv), env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True
            )
        self.processes.append(process)
        return process

    def pids(self) -> list[int]:
        """All its living processes, as this machine numbers them."""
        own = os.readlink(f"/proc/{self.init}/ns/pid")
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has just ended
                if os.readlink(entry / "ns" / "pid") == own:
                    found.append(int(entry.name))
        return found

    def kill(self) -> None:
        """SIGKILL to every process of the host at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)
        self.holder.wait(timeout=300)
        for process in self.processes:
            process.wait(timeout=300)


class Hosts:
    """Hosts joined by a switch. Use `hosts()`."""

    def __init__(self) -> None:
        self._switch = self._boot("switch", "")
        self._ip(self._switch, "link", "add", "bridge", "type", "bridge")
        self._ip(self._switch, "link", "set", "bridge", "up")
        self._num_made = 0
        self.living: list[Host] = []

    def add(self, name: str) -> Host:
        """A new host, linked to the switch."""
        self._num_made += 1
        host = self._boot(name, f"{_NETWORK}.{self._num_made}")
        self.living.append(host)
        port = f"to-{name}"
        self._ip(self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.init))
        self._ip(self._switch, "link", "set", port, "master", "bridge", "up")
        self._ip(host, "addr", "add", f"{host.address}/24", "dev", "eth0")
        self._ip(host, "link", "set", "eth0", "up")
        return host

    def cut(self, host: Host) -> None:
        """Pulls the host's cable: nothing passes, and neither side is told."""
        self._ip(self._switch, "link", "set", f"to-{host.name}", "down")

    def heal(self, host: Host) -> None:
        """Puts it back."""
        self._ip(self._switch, "link", "set", f"to-{host.name}", "up")

    def kill(self, host: Host) -> None:
        """SIGKILL to every process of a host, whose network goes with it."""
        self.living.remove(host)
        host.kill()

    def close(self) -> None:
        """Ends all hosts."""
        for host in [*self.living, self._switch]:
            host.kill()
        self.living.clear()

    def _boot(self, name: str, address: str) -> Host:
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", *_APART, "sh", "-c", _BOOT, name]
        holder = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 200
        while True:
            assert holder.poll() is None, f"host {name} did not start"
            assert time.monotonic() < deadline, f"host {name} did not start in time"
            with contextlib.suppress(OSError, ValueError):
                init = int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text())
                # The first process is ready once it has become `sleep`.
                if Path(f"/proc/{init}/comm").read_text() == "sleep\n":
                    return Host(name, address, init, holder)
            time.sleep(0.01)

    @staticmethod
    def _ip(host: Host, *arguments: str) -> None:
        subprocess.run(["nsenter", "--target", str(host.init), "--net", "ip", *arguments], check=True)


@contextlib.contextmanager
def hosts() -> Iterator[Hosts]:
    """A switch without hosts yet; all that is added ends with it."""
    made = Hosts()
    try:
        yield made
    finally:
        made.close()

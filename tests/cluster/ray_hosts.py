"""A Ray cluster on hosts of our own: a head that schedules and runs drivers, and nodes that work."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.hosts import Host, Hosts, hosts

REPOSITORY = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).parent / "ray")
_PORT = 6379
_OBJECT_STORE_BYTES = str(80 * 1024**2)

QUICK_TO_NOTICE = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}
"""A node whose connection is refused is dead after some 5 s, instead of Ray's half minute; one that does not answer
after some 15, since on a busy machine an answer may take seconds."""


class RayHosts:
    """A cluster of hosts. Use `ray_hosts()`.

    Args:
        machines: Where hosts are made.
        folder: A short path, for Ray's files, logs and the token.
        settings: More environment variables, for Ray and what runs in it.
    """

    def __init__(self, machines: Hosts, folder: Path, settings: dict[str, str]) -> None:
        self.machines = machines
        self.folder = folder
        self._settings = settings
        self._num_nodes = 0
        token = folder / "token"
        with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        self.head = self._start("head", "--head", f"--port={_PORT}", "--num-cpus=0")

    @property
    def address(self) -> str:
        """What drivers connect to."""
        return f"{self.head.address}:{_PORT}"

    def environment(self, **variables: str) -> dict[str, str]:
        """Of every process on the hosts."""
        own = {name: value for name, value in os.environ.items() if "RAY" not in name}
        return own | {
            "HOME": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            # Ray gives a job that is stopped 3 s, and then kills it.
            "RAY_JOB_STOP_WAIT_TIME_S": "75",
            "RAY_USAGE_STATS_ENABLED": "0",
            **self._settings,
            **variables,
        }

    def add_node(self, **variables: str) -> Host:
        """One more node that works, with room for one worker."""
        self._num_nodes += 1
        return self._start(f"node{self._num_nodes}", f"--address={self.address}", "--num-cpus=1", **variables)

    def driver(self, *arguments: str, name: str = "driver", on: Host | None = None) -> subprocess.Popen[str]:
        """Starts `python -m pipeline arguments` on the head, or on another host; its output is `log(name)`."""
        host = on or self.head
        variables = self.environment(RAY_ADDRESS=self.address)
        return host.start([sys.executable, "-m", "pipeline", *arguments], variables=variables, log=self.log(name))

    def log(self, name: str) -> Path:
        """What a process printed."""
        return self.folder / f"{name}.log"

    def _start(self, name: str, *options: str, **variables: str) -> Host:
        host = self.machines.add(name)
        own = self.folder / name
        own.mkdir()
        # All nodes must have one path for Ray's files, and each its own files there.
        shared = self.folder / "ray"
        shared.mkdir(exist_ok=True)
        ray = [RAY, "start", "--block", f"--node-ip-address={host.address}", f"--temp-dir={shared}", *options]
        ray += [f"--object-store-memory={_OBJECT_STORE_BYTES}", "--num-gpus=0", "--disable-usage-stats"]
        ray += ["--include-dashboard=true", "--dashboard-host=127.0.0.1"] if "--head" in options else []
        subprocess.run(host.command(["mount", "--bind", str(own), str(shared)]), check=True)
        process = host.start(ray, variables=self.environment(**variables), log=self.log(name))
        deadline = time.monotonic() + 900
        while "Ray runtime started" not in (text := self.log(name).read_text()):
            assert process.poll() is None, f"{name} did not start:\n{text}"
            assert time.monotonic() < deadline, f"{name} did not start in time:\n{text}"
            time.sleep(0.05)
        return host


@contextlib.contextmanager
def ray_hosts(**settings: str) -> Iterator[RayHosts]:
    """A cluster with a head that has no CPUs, and no nodes yet; it ends with all its hosts."""
    # Short: Ray's sockets are below it, and a socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="eoc-", ignore_cleanup_errors=True) as folder, hosts() as machines:
        yield RayHosts(machines, Path(folder), settings)

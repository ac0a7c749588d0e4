"""Ceph's S3 gateway on the loopback interface: one monitor, one disk in a file, one gateway. It checks signatures.

A real object store, from Debian's packages: radosgw, ceph-mon, ceph-osd and ceph-common. All of it runs in a folder,
and ends with the context.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "ceph-authtool", "setpriv")
ACCESS_KEY, SECRET_KEY = "ENCODEONCETESTKEY", "s3cr3t-that-must-not-be-told"
_START_SECONDS = 600
_CLASSES = Path("/usr/lib/x86_64-linux-gnu/rados-classes")


def missing_programs() -> list[str]:
    """Those of Ceph's, and what starts them, that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@dataclass(frozen=True)
class Gateway:
    """A running gateway."""

    endpoint: str
    admin: Callable[..., None]
    """Runs `radosgw-admin` with arguments."""

    @property
    def settings(self) -> dict[str, str]:
        """What a user has in the environment."""
        return {
            "AWS_ENDPOINT": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }


@contextlib.contextmanager
def ceph_gateway(folder: Path) -> Iterator[Gateway]:
    """Starts it in an empty folder with a short name (there are sockets in it), and ends it."""
    processes: list[subprocess.Popen[bytes]] = []
    config = folder / "ceph.conf"
    logs = folder / "log"
    for name in ("mon", "osd", "log", "run"):
        (folder / name).mkdir(parents=True)

    def run(program: str, *arguments: object) -> str:
        command = [program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return done.stdout

    def ceph(*arguments: object) -> str:
        return run("ceph", "-c", config, "--connect-timeout", 20, *arguments)

    def start(program: str, *arguments: object) -> None:
        with (logs / f"{program}.out").open("wb") as out:
            # A killed test run has no time to end them.
            command = ["setpriv", "--pdeathsig", "KILL", program, "-c", str(config), *map(str, arguments), "-f"]
            processes.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT))

    first, second, port = _free_port(), _free_port(), _free_port()
    cluster_id, disk_id = uuid.uuid4(), uuid.uuid4()
    address = f"[v2:127.0.0.1:{first},v1:127.0.0.1:{second}]"
    config.write_text(_config(folder, cluster_id, address, port))
    try:
        run("monmaptool", "--create", "--fsid", cluster_id, "--addv", "a", address, folder / "monmap")
        keyring = folder / "keyring"
        run("ceph-authtool", "-C", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        everything = [part for name in ("mon", "osd", "mgr") for part in ("--cap", name, "allow *")]
        run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *everything)
        run("ceph-mon", "-c", config, "-i", "a", "--mkfs", "--monmap", folder / "monmap", "--keyring", keyring)
        start("ceph-mon", "-i", "a")
        _until(lambda: bool(ceph("mon", "stat")), "the monitor", logs)
        ceph("osd", "new", disk_id)
        with keyring.open("a") as keys:
            keys.write(ceph("auth", "get-or-create", "osd.0", "mon", "allow profile osd", "osd", "allow *"))
            keys.write(ceph("auth", "get-or-create", "client.rgw", "mon", "allow rw", "osd", "allow rwx"))
        run("ceph-osd", "-c", config, "-i", 0, "--mkfs", "--osd-uuid", disk_id)
        ceph("osd", "crush", "add", "osd.0", "1.0", "root=default", "host=localhost")
        start("ceph-osd", "-i", 0)
        _until(lambda: "1 up" in ceph("osd", "stat"), "the disk", logs)

        def admin(*arguments: object) -> None:
            run("radosgw-admin", "-c", config, *arguments)

        user = ("--uid", "test", "--display-name", "test", "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
        admin("user", "create", *user)
        start("radosgw", "-n", "client.rgw")
        endpoint = f"http://127.0.0.1:{port}"
        _until(lambda: urllib.request.urlopen(endpoint, timeout=5).status == 200, "the gateway", logs)
        yield Gateway(endpoint, admin)
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _config(folder: Path, cluster_id: uuid.UUID, address: str, port: int) -> str:
    settings = {
        "fsid": cluster_id,
        "mon_host": address,
        "public_addr": "127.0.0.1",
        "cluster_addr": "127.0.0.1",
        "ms_bind_ipv6": "false",
        "keyring": folder / "keyring",
        "mon_data": folder / "mon",
        "osd_data": folder / "osd",
        "run_dir": folder / "run",
        "admin_socket": folder / "run" / "$name.asok",
        "pid_file": folder / "run" / "$name.pid",
        "log_file": folder / "log" / "$name.log",
        "osd_class_dir": _CLASSES,
        # One disk, in a sparse file, is all there is: no copies.
        "osd_pool_default_size": 1,
        "osd_pool_default_min_size": 1,
        "mon_allow_pool_size_one": "true",
        "osd_crush_chooseleaf_type": 0,
        "osd_pool_default_pg_num": 8,
        "osd_pool_default_pg_autoscale_mode": "off",
        "bluestore_block_size": 4 * 1024**3,
        "bluestore_block_wal_create": "false",
        "bluestore_block_db_create": "false",
        "osd_memory_target": 939_524_096,
        "mon_data_avail_warn": 1,
        "mon_data_avail_crit": 1,
        "rgw_thread_pool_size": 32,
        # What is used of a quota is counted anew each time.
        "rgw_bucket_quota_ttl": 0,
    }
    lines = [f"{name} = {value}" for name, value in settings.items()]
    gateway = f"[client.rgw]\nrgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1\n"
    return "[global]\n" + "\n".join(lines) + "\n" + gateway


def _until(holds: Callable[[], bool], what: str, logs: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(RuntimeError, OSError):
            if holds():
                return
        if time.monotonic() > deadline:
            tails = [f"{path.name}: {path.read_text(errors='replace')[-1000:]}" for path in sorted(logs.iterdir())]
            raise RuntimeError(f"{what} does not start\n" + "\n".join(tails))
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""The long form: `python -m tests.object_stores --output store.json`."""

from __future__ import annotations

import argparse
import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

from schemas.storage import Store
from tests.loopback import loopback_command
from tests.object_stores import scenarios
from tests.object_stores.ceph import missing_programs
from tests.object_stores.servers import SERVERS, Server, served
from tests.object_stores.stage import Stage, encode, run

_INSIDE = "ENCODE_ONCE_OWN_NETWORK"
_MOUNT = 'mount -t tmpfs -o size=256m tmpfs "$1" && shift && exec "$@"'


def main() -> int:
    """Exit status 1 if anything that must hold did not."""
    options = _options()
    if _INSIDE not in os.environ:
        # A network and a small disk of its own, which end with it.
        disk = tempfile.mkdtemp(prefix="eo", dir="/tmp")
        command = [sys.executable, "-m", "tests.object_stores", *sys.argv[1:]]
        inside = ["unshare", "--mount", "sh", "-c", _MOUNT, "sh", disk, *command]
        os.execvpe("/usr/bin/env", ["env", f"{_INSIDE}={disk}", *loopback_command(inside)], dict(os.environ))
    # Asked to end, it ends what it has started, and its folders.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    disk = Path(os.environ.pop(_INSIDE))
    atexit.register(_remove_disk, disk)
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpus": len(os.sched_getaffinity(0)),
        "server": options.server,
        **{name: version(name) for name in ("ray", "torch", "obstore")},
    }
    failed = False
    with tempfile.TemporaryDirectory(prefix="eo-") as folder, served(options.server, Path(folder)) as server:
        stage = _staged(Path(folder), server, options.shards)
        for name, play in _plan(options, stage, server, disk):
            if options.only and name not in options.only:
                continue
            began = time.monotonic()
            try:
                report[name] = play() | {"total_seconds": round(time.monotonic() - began, 1)}
            except Exception as error:
                report[name], failed = {"failure": f"{type(error).__name__}: {error}"[-4000:]}, True
            print(name, json.dumps(report[name]), flush=True)
            if options.output is not None:
                options.output.write_text(json.dumps(report, indent=1) + "\n")
    return int(failed)


def _remove_disk(folder: Path) -> None:
    """The folder belongs to everybody; only the disk in it ends with this process."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.object_stores", description=__doc__)
    usual = "moto" if missing_programs() else "ceph"
    parser.add_argument("--server", choices=SERVERS, default=usual, help="default: ceph if there, else moto")
    parser.add_argument("--shards", type=int, default=24, help="tars of 30 samples")
    parser.add_argument("--short", action="store_true", help="what every run of the suite has")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a stall, and of an outage")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the scenarios, as the report names them")
    parser.add_argument("--output", type=Path, help="JSON document of what happened")
    return parser.parse_args()


def _plan(
    options: argparse.Namespace, stage: Stage, server: Server, disk: Path
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "killed and resumed", lambda: scenarios.killed_and_resumed(stage)
    yield "races", lambda: scenarios.races_have_one_winner(stage)
    if server.checks_signatures:
        yield "refused", lambda: scenarios.refused_with_a_reason(stage)
    if server.admin is not None:
        yield "quota used up", lambda: scenarios.quota_used_up(stage, server.admin)
    yield "full disk of a worker", lambda: scenarios.full_disk_of_a_worker(stage, disk)
    yield "full disk", lambda: scenarios.full_disk(stage, disk)
    kinds = scenarios.KINDS[1:2] if options.short else scenarios.KINDS
    for kind in kinds:
        yield kind, lambda kind=kind: scenarios.disturbed(stage, kind, seconds=options.seconds)


def _staged(folder: Path, server: Server, num_shards: int) -> Stage:
    tars, expected = folder / "tars", folder / "expected"
    run("demo-data", str(tars), "--num-shards", str(num_shards), "--samples-per-shard", "30")
    run(*encode(tars, expected))
    names = (server.bucket, server.settings, server.endpoint_variable, server.secret_variable)
    stage = Stage(folder, *names, tars, expected)
    with mock.patch.dict(os.environ, server.settings):
        store = Store(stage.inputs)
        for path in sorted(tars.glob("*.tar")):
            store.replace(path.name, path.read_bytes())
    return stage


if __name__ == "__main__":
    sys.exit(main())

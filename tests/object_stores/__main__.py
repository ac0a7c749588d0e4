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
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

from tests.loopback import loopback_command
from tests.object_stores import scenarios
from tests.object_stores.ceph import Gateway, ceph_gateway, missing_programs
from tests.object_stores.stage import BUCKET, Stage, encode, run
from tests.s3_server import s3_server

_INSIDE = "ENCODE_ONCE_OWN_NETWORK"
_MOUNT = 'mount -t tmpfs -o size=256m tmpfs "$1" && shift && exec "$@"'


def main() -> int:
    """Exit status 1 if anything that must hold did not."""
    options = _options()
    if _INSIDE not in os.environ:
        # A network and a small disk of its own, which end with it.
        disk = tempfile.mkdtemp(prefix="eo-disk-")
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
    with tempfile.TemporaryDirectory(prefix="eo-") as folder, _server(options.server, Path(folder)) as gateway:
        stage = _staged(Path(folder), gateway, options.shards)
        for name, play in _plan(options, stage, gateway, disk):
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
    servers = ("ceph", "moto")
    parser.add_argument(
        "--server", choices=servers, default=servers[bool(missing_programs())], help="default: ceph if there"
    )
    parser.add_argument("--shards", type=int, default=24, help="tars of 30 samples")
    parser.add_argument("--short", action="store_true", help="what every run of the suite has")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a stall, and of an outage")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the scenarios, as the report names them")
    parser.add_argument("--output", type=Path, help="JSON document of what happened")
    return parser.parse_args()


def _plan(
    options: argparse.Namespace, stage: Stage, gateway: Gateway | None, disk: Path
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "killed and resumed", lambda: scenarios.killed_and_resumed(stage)
    yield "races", lambda: scenarios.races_have_one_winner(stage)
    if gateway is not None:
        # moto checks neither signatures nor quotas.
        yield "refused", lambda: scenarios.refused_with_a_reason(stage)
        yield "quota used up", lambda: scenarios.quota_used_up(stage, gateway.admin)
    yield "full disk", lambda: scenarios.full_disk(stage, disk)
    kinds = scenarios.KINDS[1:2] if options.short else scenarios.KINDS
    for kind in kinds:
        yield kind, lambda kind=kind: scenarios.disturbed(stage, kind, seconds=options.seconds)


@contextmanager
def _server(kind: str, folder: Path) -> Iterator[Gateway | None]:
    """Starts it and puts its settings into `os.environ` of nobody: `_staged` asks for them."""
    if kind == "ceph":
        with ceph_gateway(folder / "ceph") as gateway:
            yield gateway
        return
    with s3_server() as endpoint, mock.patch.dict(os.environ, {"EO_MOTO": endpoint}):
        yield None


def _staged(folder: Path, gateway: Gateway | None, num_shards: int) -> Stage:
    if gateway is not None:
        settings = gateway.settings
    else:
        settings = {
            "AWS_ENDPOINT": os.environ["EO_MOTO"],
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "s3cr3t-that-must-not-be-told",
            "AWS_REGION": "us-east-1",
        }
    tars, expected = folder / "tars", folder / "expected"
    run("demo-data", str(tars), "--num-shards", str(num_shards), "--samples-per-shard", "30")
    run(*encode(tars, expected))
    stage = Stage(folder, settings, tars, expected)
    client = stage.client()
    client.create_bucket(Bucket=BUCKET)
    for path in sorted(tars.glob("*.tar")):
        client.upload_file(str(path), BUCKET, f"tars/{path.name}")
    return stage


if __name__ == "__main__":
    sys.exit(main())

"""Starts a local cluster and looks at it from inside and from outside; FOLDER/report.json says what was found.

Run by test_cluster.py in a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray

from pipeline.job.cluster import connect, worker_shape
from schemas.errors import ConfigError

# What a process outside sees: the same `connect`, with the token that the environment gives.
_JOIN = """
import json, sys
from pipeline.job.cluster import connect
from schemas.errors import ConfigError
try:
    with connect(sys.argv[1], log_to_driver=False) as cluster:
        print(json.dumps(["joined", cluster.is_local, len(cluster.nodes())]))
except ConfigError as error:
    print(json.dumps([error.code, error.actual]))
"""


@ray.remote(num_cpus=0.5)
def look_around() -> dict[str, Any]:
    """From a worker."""
    # On other nodes the import is what sets how torch's threads wait: it must come before torch's own.
    torch_first = "torch" in sys.modules
    import pipeline

    found = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "GOMP_SPINCOUNT")}
    return {"pipeline": pipeline.__file__, "torch_first": torch_first, **found}


def join(address: str, folder: Path, variables: dict[str, str]) -> list[Any]:
    """What another process is told that tries to join."""
    environment = {name: value for name, value in os.environ.items() if "RAY" not in name}
    # Ray asks twenty times, once a second, before it believes a refusal.
    environment |= {"HOME": str(folder), "RAY_NUM_REDIS_GET_RETRIES": "2", **variables}
    command = [sys.executable, "-c", _JOIN, address]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    lines = [line for line in found.stdout.splitlines() if line.startswith("[")]
    assert lines, found.stdout + found.stderr
    answer = json.loads(lines[-1])
    assert isinstance(answer, list)
    return answer


def main(folder: Path) -> None:
    """Looks, and reports."""

    def on_sigterm(*_: object) -> None:
        return

    signal.signal(signal.SIGTERM, on_sigterm)
    os.environ["RAY_AUTH_TOKEN"] = "the user's own, of another cluster"
    before = set(os.environ.items())
    with connect(num_cpus=3) as cluster:
        token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        address, session = cluster.address, str(token.parent)
        report = {
            "is_local": cluster.is_local,
            "nodes": cluster.nodes(),
            "shape": vars(worker_shape(cluster, 2, device="auto")),
            "worker": ray.get(look_around.remote()),
            "handler_kept": signal.getsignal(signal.SIGTERM) is on_sigterm,
            "token_mode": stat.S_IMODE(token.stat().st_mode),
            "folder_mode": stat.S_IMODE(token.parent.stat().st_mode),
            "token_characters": len(token.read_text()),
            "own_token_seen": "RAY_AUTH_TOKEN" in os.environ,
        }
        outsiders = {
            "right_token": {"RAY_AUTH_TOKEN_PATH": str(token)},
            "wrong_token": {"RAY_AUTH_TOKEN": "0123456789abcdef" * 4},
            "no_token": {},
            "no_authentication": {"RAY_AUTH_MODE": "disabled"},
        }
        with ThreadPoolExecutor() as threads:
            answers = threads.map(lambda variables: join(address, folder, variables), outsiders.values())
            report |= dict(zip(outsiders, answers, strict=True))
    report |= {"folder_left": Path(session).exists(), "environment_changed": sorted(set(os.environ.items()) ^ before)}
    # The connection is gone for good, and another can be made.
    with connect("local", num_cpus=1) as cluster:
        report["second"] = [node["CPU"] for node in cluster.nodes()]
    for name, address in (("url", "ray://127.0.0.1:10001"), ("no_port", "head"), ("no_cluster", "127.0.0.1:9")):
        try:
            with connect(address):
                pass
        except ConfigError as error:
            report[name] = [error.code, error.actual]
    (folder / "report.json").write_text(json.dumps(report))

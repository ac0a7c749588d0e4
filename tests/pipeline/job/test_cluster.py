"""A cluster of our own is private, closed to strangers and gone without a trace; a foreign one is joined or refused."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.job.cluster import Cluster, WorkerShape, room_for, worker_shape
from pipeline.job.folder import private_folder
from schemas.errors import ConfigError
from tests.pipeline.job import ray_process


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """From another current folder, as a user who did not install the package would run it."""
    folder = tmp_path_factory.mktemp("cluster")
    return ray_process.report("tests.pipeline.job.cluster_scenarios", folder, cwd=folder)


def test_a_local_cluster_is_what_was_asked_for(found: dict[str, Any]) -> None:
    assert found["is_local"] is True
    assert [node["CPU"] for node in found["nodes"]] == [3]
    assert found["nodes"][0]["object_store_memory"] <= 110e6
    assert found["shape"] == {"num_workers": 2, "num_cpus": 1, "num_gpus": 0.0, "num_threads": 1}
    assert found["second"] == [1]


def test_workers_import_from_where_the_driver_did(found: dict[str, Any], repository: Path) -> None:
    assert Path(found["worker"]["pipeline"]).parent.parent == repository
    assert found["worker"]["RAY_AUTH_MODE"] == "token"
    assert found["worker"]["torch_first"] is False
    assert found["worker"]["GOMP_SPINCOUNT"] == "1500"


def test_a_local_cluster_has_a_token_of_its_own(found: dict[str, Any]) -> None:
    assert stat.filemode(found["token_mode"]) == "?rw-------"
    assert stat.filemode(found["folder_mode"]) == "?rwx------"
    assert found["token_characters"] == 64
    assert found["own_token_seen"] is False


def test_only_its_token_opens_a_cluster(found: dict[str, Any]) -> None:
    assert found["right_token"] == ["joined", False, 1]
    assert found["wrong_token"] == ["ray-token-refused", "the token is not accepted"]
    assert found["no_token"] == ["ray-token-refused", "no token was found"]
    assert found["no_authentication"] == ["ray-token-refused", "the token is not accepted"]


def test_a_cluster_that_is_not_there_is_named_unreachable(found: dict[str, Any]) -> None:
    assert found["no_cluster"][0] == "ray-unreachable"
    assert "refused" in found["no_cluster"][1]
    assert found["url"] == ["ray-address-invalid", "a URL"]
    assert found["no_port"] == ["ray-address-invalid", "no port"]


def test_nothing_is_left_behind(found: dict[str, Any]) -> None:
    assert found["folder_left"] is False
    # Two are Ray's own, and harmless.
    assert {name for name, _ in found["environment_changed"]} <= {"RAY_CLIENT_MODE", "PYTHONBREAKPOINT"}
    assert found["handler_kept"] is True


def test_a_killed_driver_takes_its_cluster_with_it(tmp_path: Path) -> None:
    with ray_process.start("tests.pipeline.job.abandoned_cluster", tmp_path) as process:
        deadline = time.monotonic() + 600
        while not (tmp_path / "report.json").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        report = json.loads((tmp_path / "report.json").read_text())
        # Processes of one number are told apart by when they began.
        cluster = [child for child in psutil.Process(process.pid).children(recursive=True) if child.is_running()]
        assert report["worker"] in {child.pid for child in cluster}
        assert any("gcs_server" in child.name() for child in cluster)
        process.send_signal(signal.SIGKILL)
        process.wait()
        died = time.monotonic()
        folder = Path(report["token"]).parent
        while folder.exists() or any(is_alive(child) for child in cluster):
            left = [child for child in cluster if is_alive(child)]
            assert time.monotonic() < died + 300, f"outlives its driver: {left}, {folder}"
            time.sleep(0.1)
        print(f"{len(cluster)} processes gone {time.monotonic() - died:.1f} s after their driver")


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_folders_of_living_drivers_and_of_others_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.job.folder._parent", lambda: tmp_path)
    for name in ("encode-once-dead", "encode-once-live", "encode-once-half", "unrelated"):
        (tmp_path / name).mkdir()
        if name != "encode-once-half":
            (tmp_path / name / "driver.lock").touch()
    with open(tmp_path / "encode-once-live" / "driver.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with private_folder() as own:
            names = {path.name for path in tmp_path.iterdir()}
            assert names == {"encode-once-live", "encode-once-half", "unrelated", own.name}
            with private_folder() as other:
                assert own.exists()
                assert other != own
    assert not own.exists()


def test_the_folder_is_short_enough_for_socket_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(suffix="x" * 60) as long:
        monkeypatch.setattr(tempfile, "tempdir", long)
        with private_folder() as folder:
            name = folder / "ray" / "session_2026-11-22_23-44-05_002312_4194304" / "sockets" / "plasma_store"
            assert len(os.fsencode(name)) < 108


class Nodes(Cluster):
    """A cluster of given nodes."""

    def __init__(self, *nodes: Mapping[str, float]) -> None:
        super().__init__("nowhere:6379", False)
        object.__setattr__(self, "_nodes", list(nodes))

    def nodes(self) -> list[Mapping[str, float]]:
        return self._nodes


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ([{"CPU": 2}], {"num_workers": None}, WorkerShape(1, 2, 0.0, 2)),
        ([{"CPU": 2}], {"num_workers": 2}, WorkerShape(2, 1, 0.0, 1)),
        ([{"CPU": 2}], {"num_workers": 3}, WorkerShape(3, 0.666, 0.0, 1)),
        ([{"CPU": 64}], {"num_workers": None}, WorkerShape(16, 4, 0.0, 4)),
        ([{"CPU": 16}, {"CPU": 2}], {"num_workers": None}, WorkerShape(5, 2, 0.0, 2)),
        ([{"CPU": 96, "GPU": 8}], {"num_workers": None}, WorkerShape(8, 1, 1.0, 12)),
        ([{"CPU": 96, "GPU": 8}], {"num_workers": 3}, WorkerShape(3, 1, 1.0, 12)),
        ([{"CPU": 96, "GPU": 8}], {"num_workers": None, "device": "cpu"}, WorkerShape(24, 4, 0.0, 4)),
        ([{"CPU": 8, "GPU": 1}], {"num_workers": None, "gpus_per_worker": 0.5}, WorkerShape(2, 1, 0.5, 4)),
        ([{"CPU": 2, "GPU": 8}, {"CPU": 4}], {"num_workers": None}, WorkerShape(8, 0.25, 1.0, 1)),
        ([{"CPU": 4, "GPU": 1}, {"CPU": 32, "GPU": 4}], {"num_workers": None}, WorkerShape(5, 1, 1.0, 4)),
    ],
)
def test_workers_fit_the_nodes(nodes: list[dict[str, float]], asked: dict[str, Any], expected: WorkerShape) -> None:
    shape = worker_shape(Nodes(*nodes), **{"device": "auto", **asked})
    assert shape == expected
    if asked["num_workers"] is None:  # As many as fit, so they must.
        room = sum(
            min(
                node["CPU"] // shape.num_cpus,
                node.get("GPU", 0) // shape.num_gpus if shape.num_gpus else float("inf"),
            )
            for node in nodes
        )
        assert room >= shape.num_workers
        assert room_for(Nodes(*nodes), shape) == room
        assert room_for(Nodes(*nodes, *nodes), shape) == 2 * room


@pytest.mark.parametrize(
    ("nodes", "asked"),
    [
        ([{"CPU": 4}], {"device": "cuda"}),
        ([{"CPU": 4, "GPU": 1}], {"device": "cuda", "gpus_per_worker": 2}),
        ([{"memory": 1e9}], {"device": "auto"}),
    ],
)
def test_a_cluster_without_what_a_worker_needs_is_refused(nodes: list[dict[str, float]], asked: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cluster-too-small"):
        worker_shape(Nodes(*nodes), None, **asked)

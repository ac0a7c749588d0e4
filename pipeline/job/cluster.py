"""Getting a Ray cluster: one of our own on this machine, or the user's; with token authentication either way.

A cluster of our own is started with `ray.init("local")`, which never joins another one by accident, as a stale address
file would have it. It lives in a private folder (Ray's sessions, sockets and logs, and the token) that goes away with
it. Ray listens on the machine's network addresses even then, and whoever reaches a cluster without authentication runs
code on it; hence a fresh random token each time.

When a driver is killed outright, its cluster and the folder are gone a few seconds later (see watchdog.py). Should even
that fail, the next run on the machine removes the folder.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.job.folder import private_folder
from pipeline.job.watchdog import watched
from schemas.errors import ConfigError

_OBJECT_STORE_BYTES = 100 * 1000**2
"""Only small results pass through Ray; its default would be 30 % of the memory."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    # Under `uv run` Ray would upload the current folder and build each worker an environment of its own.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
_CONNECT_SECONDS = 15.0
_CORES_PER_CPU_WORKER = 4
_CPUS_BESIDE_A_GPU = 1.0


@dataclass(frozen=True)
class Cluster:
    """A connected cluster."""

    address: str
    is_local: bool
    """Started by this process, and ended with it."""

    def nodes(self) -> list[Mapping[str, float]]:
        """The resources of each living node."""
        import ray

        return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@dataclass(frozen=True)
class WorkerShape:
    """How many workers, and what each is given."""

    num_workers: int
    num_cpus: float
    num_gpus: float
    num_threads: int
    """What torch and the compressors may use in one worker."""


@contextlib.contextmanager
def connect(
    ray_address: str | None = None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    log_to_driver: bool = True,
) -> Iterator[Cluster]:
    """Connects this process to a cluster, and disconnects at the end.

    Args:
        ray_address: `host:port` of a running cluster, "auto" for the one this machine is a node of, "local" for one of
            our own. None is what `RAY_ADDRESS` says (`ray job submit` sets it), or else "local". A running cluster's
            token is found by Ray: `RAY_AUTH_TOKEN`, `RAY_AUTH_TOKEN_PATH`, or `~/.ray/auth_token`.
        num_cpus: Of a local cluster, instead of what the machine has.
        num_gpus: Of a local cluster, instead of what the machine has.
        log_to_driver: Whether what workers print appears here.

    Raises:
        ConfigError: The cluster cannot be reached, or refuses the token.
    """
    address = ray_address or os.environ.get("RAY_ADDRESS") or "local"
    with contextlib.ExitStack() as stack:
        settings: dict[str, Any] = {"logging_level": "warning", "log_to_driver": log_to_driver}
        variables = {name: value for name, value in _QUIET.items() if name not in os.environ}
        if address == "local":
            folder = stack.enter_context(private_folder())
            variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(_new_token(folder))}
            variables["PYTHONPATH"] = _python_path()
            stack.enter_context(watched(folder))
            stack.enter_context(_environment(variables, without=("RAY_AUTH_TOKEN", "RAY_ADDRESS")))
            settings |= {"num_cpus": num_cpus, "num_gpus": num_gpus, "include_dashboard": False}
            # A folder inside: Ray opens the one it is given to everybody.
            settings |= {"object_store_memory": _OBJECT_STORE_BYTES, "_temp_dir": str(folder / "ray")}
        else:
            _check_address(address)
            variables["RAY_AUTH_MODE"] = os.environ.get("RAY_AUTH_MODE", "token")
            stack.enter_context(_environment(variables))
        yield stack.enter_context(_connected(address, settings))


def worker_shape(
    cluster: Cluster, num_workers: int | None, *, device: str, gpus_per_worker: float = 1.0
) -> WorkerShape:
    """What each worker is given, and how many there are unless the user says.

    With GPUs one worker a GPU (or several, for a fraction); without, one for every four cores of a node. The threads of
    a worker are its share of the smallest node.

    Args:
        num_workers: None for as many as fit.
        device: "cuda", "cpu", or "auto": "cuda" if the cluster has a GPU.
        gpus_per_worker: Of a worker on "cuda": a whole number, or a fraction of one.

    Raises:
        ConfigError: No node of the cluster has what a worker needs.
    """
    nodes = cluster.nodes()
    with_gpu = [node for node in nodes if node.get("GPU", 0) >= gpus_per_worker]
    if device.startswith("cuda") or (device == "auto" and with_gpu):
        if not with_gpu:
            raise _no_gpu(nodes, gpus_per_worker)
        fitting = [max(1, int(node["GPU"] / gpus_per_worker)) for node in with_gpu]
        cores = min(node.get("CPU", 1) / fit for node, fit in zip(with_gpu, fitting, strict=True))
        num_cpus = min(_CPUS_BESIDE_A_GPU, cores)
        return WorkerShape(num_workers or sum(fitting), num_cpus, gpus_per_worker, max(1, int(cores)))
    with_cpu = [node["CPU"] for node in nodes if node.get("CPU", 0) > 0]
    if not with_cpu:
        raise _no_cpu(nodes)
    default = sum(max(1, int(cpus / _CORES_PER_CPU_WORKER)) for cpus in with_cpu)
    wanted = num_workers or default
    per_worker = sum(with_cpu) / wanted
    # Floored, or rounding would leave no room for the last one.
    num_cpus = min(min(with_cpu), math.floor(per_worker * 1000) / 1000 if per_worker < 1 else math.floor(per_worker))
    return WorkerShape(wanted, num_cpus, 0.0, max(1, int(num_cpus)))


def room_for(cluster: Cluster, shape: WorkerShape) -> int:
    """How many workers of a shape the cluster's nodes have room for now."""
    num = 0
    for node in cluster.nodes():
        by_cpu = node.get("CPU", 0) / shape.num_cpus if shape.num_cpus else math.inf
        by_gpu = node.get("GPU", 0) / shape.num_gpus if shape.num_gpus else math.inf
        num += int(min(by_cpu, by_gpu))
    return num


@contextlib.contextmanager
def _connected(address: str, settings: Mapping[str, Any]) -> Iterator[Cluster]:
    with _signal_handlers_kept():
        import ray

        _reread_environment()
        try:
            context = ray.init(address, **settings)
        except Exception as error:
            ray.shutdown()
            raise _refused(address, error) from error
    try:
        yield Cluster(str(context.address_info["address"]), address == "local")
    finally:
        # Waits for the processes: their folder is about to go.
        ray.shutdown(wait_for_processes=True)


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """`ray.init` takes SIGTERM over; a driver that stops in an orderly way needs its own handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str], without: tuple[str, ...] = ()) -> Iterator[None]:
    """Environment variables for Ray and its processes, put back at the end."""
    before = {name: os.environ.get(name) for name in (*variables, *without)}
    os.environ.update(variables)
    for name in without:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _reread_environment() -> None:
    """Ray's core reads the authentication mode when it is imported, and caches the token: too early for us, perhaps."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _new_token(folder: Path) -> Path:
    path = folder / "token"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(os.urandom(32).hex())
    return path


def _python_path() -> str:
    """Workers of a local cluster import from where this process did, be it a checkout and another current folder."""
    own = str(Path(__file__).resolve().parents[2])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    # Appending keeps the precedence the user's paths have; an installed package is found in site-packages anyway.
    return os.pathsep.join(paths if own in paths or "site-packages" in own else [*paths, own])


def _check_address(address: str) -> None:
    """Finds out in seconds what Ray would find out in minutes."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdecimal():
        raise ConfigError(
            "ray-address-invalid",
            where=f"--ray-address {address}",
            expected="host:port of the cluster's head node, auto, or local",
            actual="a URL" if "://" in address else "no port",
            remedy="run this command on a machine of the cluster (`ray job submit` does), with --ray-address auto",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(f"--ray-address {address}", f"{type(error).__name__}: {error}") from error


def _refused(address: str, error: Exception) -> ConfigError:
    """Says which of the usual reasons it is: the whole chain is searched, for Ray wraps its errors."""
    from ray.exceptions import AuthenticationError

    where = "starting a local Ray cluster" if address == "local" else f"--ray-address {address}"
    chain: list[str] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(f"{type(link).__name__}: {link}")
        link = link.__cause__ or link.__context__
    text = " <- ".join(chain)
    if isinstance(error, AuthenticationError) or "AuthenticationError" in text:
        return ConfigError(
            "ray-token-refused",
            where=where,
            expected="the cluster to accept this user's token",
            actual="no token was found" if "no authentication token was found" in text else "the token is not accepted",
            remedy="put the cluster's token into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH; "
            "for a cluster that has no authentication, set RAY_AUTH_MODE=disabled",
        )
    return _unreachable(where, text[:1000])


def _unreachable(where: str, actual: str) -> ConfigError:
    return ConfigError(
        "ray-unreachable",
        where=where,
        expected="a Ray cluster that answers, of this Ray and Python version",
        actual=actual,
        remedy="check the address and that the cluster is up (`ray status` on its head node); leave out --ray-address "
        "to use this machine alone",
    )


def _no_gpu(nodes: list[Mapping[str, float]], gpus_per_worker: float) -> ConfigError:
    return ConfigError(
        "cluster-too-small",
        where="--device cuda",
        expected=f"a node with {gpus_per_worker:g} GPU",
        actual=f"{len(nodes)} nodes, with {[node.get('GPU', 0) for node in nodes]} GPUs",
        remedy="use --device cpu, or a cluster that has GPUs",
    )


def _no_cpu(nodes: list[Mapping[str, float]]) -> ConfigError:
    return ConfigError(
        "cluster-too-small",
        where="the Ray cluster",
        expected="a node with CPUs",
        actual=f"{len(nodes)} nodes without any",
        remedy="add nodes, or start Ray with --num-cpus",
    )

"""What is played on a server. Each returns figures; what must hold is asserted on the way."""

from __future__ import annotations

import base64
import contextlib
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from schemas.storage import Store
from tests.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from tests.object_stores.stage import Stage, encode, epoch, require_equal, run, start


def killed_and_resumed(stage: Stage) -> dict[str, Any]:
    """From bucket to bucket; the driver is killed on the way, and the same command goes on."""
    name, dataset = "killed", f"{stage.bucket}/killed"
    # Ray's folder is made in it; with a longer name it would be made elsewhere.
    scratch = Path(tempfile.mkdtemp(prefix="eo", dir="/tmp"))
    variables = {**stage.settings, "TMPDIR": str(scratch)}
    with start(*encode(stage.inputs, dataset), **variables) as driver:
        while not [key for key in stage.keys(f"{name}/ledger/") if key.endswith(".json")]:
            assert driver.poll() is None, driver.communicate()[0]
            time.sleep(0.05)
        # What lives with the driver ends with it: its Ray's logs, for one.
        logs = "".join(path.read_text(errors="replace") for path in scratch.rglob("*") if path.is_file())
        driver.send_signal(signal.SIGKILL)
        first = driver.communicate()[0]
    before = {key for key in stage.keys(f"{name}/ledger/") if key.endswith(".json")}
    second = run(*encode(stage.inputs, dataset), **variables)
    if stage.bucket.startswith("s3://"):
        variables = _as_profile(stage, variables)
    third = run(*encode(stage.inputs, dataset), **variables)
    shutil.rmtree(scratch)
    assert "Nothing to encode" in third
    validated = run("validate", dataset, "--level", "values", module="schemas", **stage.settings)
    with mock.patch.dict(os.environ, stage.settings):
        require_equal(str(stage.expected), dataset)
    trained = _trained(dataset, stage)
    objects = stage.keys(f"{name}/")
    assert not [key for key in objects if key.endswith(".alive")]
    stored = "".join(stage.read(key).decode("latin-1") for key in objects)
    secret = stage.settings[stage.secret_variable]
    for what in (first, second, third, validated, trained, logs, stored):
        assert secret not in what, "the secret is told"
    assert logs, "Ray's logs were not looked at"
    return {"records_before": len(before), "records": len([key for key in objects if "/ledger/" in key])}


def _trained(dataset: str, stage: Stage) -> str:
    """What a small training run on the dataset prints, resumed on the way."""
    output = stage.folder / "run"
    model = ("--model.depth", "2", "--model.num-heads", "2", "--model.head-dim", "8")
    stream = ("--stream.num-streams", "4", "--stream.holdout-rows", "8")
    options = (
        "train",
        "demo",
        "--data",
        dataset,
        "--output",
        str(output),
        "--device",
        "cpu",
        "--batch-size",
        "8",
        *model,
        *stream,
    )
    first = run(*options, "--steps", "2", module="trainer", **stage.settings)
    second = run(*options, "--steps", "4", module="trainer", **stage.settings)
    assert "goes on after step 2" in second, second
    return first + second


def _as_profile(stage: Stage, variables: Mapping[str, str]) -> dict[str, str]:
    """The same credentials, from a profile instead of the environment."""
    keys = {name: value for name, value in variables.items() if name.endswith(("_KEY_ID", "_ACCESS_KEY"))}
    path = stage.folder / "credentials"
    path.write_text("[cluster]\n" + "".join(f"{name.lower()} = {value}\n" for name, value in keys.items()))
    others = {name: value for name, value in variables.items() if name not in keys}
    return {**others, "AWS_PROFILE": "cluster", "AWS_SHARED_CREDENTIALS_FILE": str(path)}


def races_have_one_winner(stage: Stage) -> dict[str, Any]:
    """Sixteen writers create the same object at once, twenty times."""
    with mock.patch.dict(os.environ, stage.settings), ThreadPoolExecutor(16) as writers:
        store = Store(f"{stage.bucket}/races")
        for number in range(20):
            path = f"{number} é#?%20+.json"
            won = list(writers.map(lambda one, path=path: store.create(path, bytes([one]) * 100), range(16)))
            assert won.count(True) == 1
            assert store.get(path) == bytes([won.index(True)]) * 100
        assert len(list(store.list())) == 20
    return {"races": 20, "writers": 16}


def refused_with_a_reason(stage: Stage) -> dict[str, Any]:
    """A wrong secret, a bucket that is not there: an error at once, which tells no secret."""
    wrong = {**stage.settings, stage.secret_variable: base64.b64encode(b"another-s3cr3t").decode()}
    seconds = {}
    for name, url, variables, code in (
        ("wrong secret", f"{stage.bucket}/refused", wrong, "storage-failed"),
        ("no such bucket", f"{stage.bucket}-not-there/refused", stage.settings, "bucket-missing"),
    ):
        began = time.monotonic()
        output = run(*encode(stage.tars, url), expect=(1,), **variables)
        seconds[name] = round(time.monotonic() - began, 1)
        assert f"[{code}]" in output, output
        assert url in output, output
        assert "remedy:" in output, output
        assert variables[stage.secret_variable] not in output
        assert "Traceback" not in output, output
    return {"seconds": seconds}


def quota_used_up(stage: Stage, admin: Any) -> dict[str, Any]:
    """The store has no room: the job stops, gives no shard up, and the same command goes on when there is."""
    dataset = f"{stage.bucket}/quota"
    used = sum(1 for _ in stage.keys(""))
    of = ("--quota-scope=bucket", f"--bucket={urlsplit(stage.bucket).netloc}")
    admin("quota", "set", *of, f"--max-objects={used + 6}")
    admin("quota", "enable", *of)
    # 1, not 4, where there is no room for the index either.
    output = run(*encode(stage.inputs, dataset), expect=(1, 4), **stage.settings)
    assert "storage-full" in output, output
    assert not [key for key in stage.keys("quota/") if "/quarantine/" in key]
    admin("quota", "disable", *of)
    run(*encode(stage.inputs, dataset), **stage.settings)
    with mock.patch.dict(os.environ, stage.settings):
        require_equal(str(stage.expected), dataset)
    return {}


def faults(kind: str, *, seconds: float) -> list[Fault]:
    """A schedule by its name; `seconds` is how long a pause is, and an outage."""
    every: dict[str, Any] = {"method": ""}
    return {
        "undisturbed": [],
        # Each is asked after those before it: so all three happen to as many requests, together to a fifth.
        "500, 503 and SlowDown to 20 % of requests": [
            # Each with chances of its own: from one seed they would come in threes.
            Fault("error", share=0.2 / 3, chance=random.Random(1), **every),
            Fault("unavailable", share=0.2 / 2.8, chance=random.Random(2), **every),
            Fault("slow-down", share=0.2 / 2.6, chance=random.Random(3), **every),
        ],
        "connections reset, 10 % of requests": [Fault("reset", share=0.1, **every)],
        "answers lost after the deed, 20 % of puts": [Fault("lost", method="PUT", share=0.2)],
        "bodies cut short, 20 % of reads": [Fault("truncate", share=0.2)],
        "two requests stalled": [
            Fault("pause", method="PUT", skip=6, times=1, seconds=seconds),
            Fault("pause", method="GET", skip=12, times=1, seconds=seconds),
        ],
        "an outage": [],
    }[kind]


KINDS = (
    "undisturbed",
    "500, 503 and SlowDown to 20 % of requests",
    "connections reset, 10 % of requests",
    "answers lost after the deed, 20 % of puts",
    "bodies cut short, 20 % of reads",
    "two requests stalled",
    "an outage",
)


def disturbed(stage: Stage, kind: str, *, seconds: float) -> dict[str, Any]:
    """The whole job, then an epoch of the trainer's stream, through a proxy that disturbs them."""
    name = f"disturbed-{KINDS.index(kind)}"
    dataset = f"{stage.bucket}/{name}"
    with faulty_proxy(stage.settings[stage.endpoint_variable]) as proxy:
        variables = {**stage.settings, stage.endpoint_variable: proxy.url}
        proxy.faults = faults(kind, seconds=seconds)
        with _outage(proxy, seconds) if kind == "an outage" else mock.patch.dict({}, {}):
            began = time.monotonic()
            output = run(*encode(stage.inputs, dataset), **variables)
            encoded = time.monotonic() - began
        proxy.faults = faults(kind, seconds=seconds)
        with mock.patch.dict(os.environ, variables):
            began = time.monotonic()
            keys = epoch(dataset)
            streamed = time.monotonic() - began
        requests = len(proxy.requests)
    assert keys == epoch(str(stage.expected))
    run("validate", dataset, "--level", "values", module="schemas", **stage.settings)
    with mock.patch.dict(os.environ, stage.settings):
        require_equal(str(stage.expected), dataset)
    assert not [key for key in stage.keys(f"{name}/") if "/quarantine/" in key or key.endswith(".alive")]
    return {
        "requests": requests,
        "encode_seconds": round(encoded, 1),
        "epoch_seconds": round(streamed, 1),
        "attempts_failed": output.count("will be tried again"),
    }


@contextmanager
def _outage(proxy: FaultyProxy, seconds: float) -> Iterator[None]:
    """From the first record on, nothing is answered for a while."""
    ended = threading.Event()

    def happen() -> None:
        while not ended.wait(0.05):
            if any(method == "PUT" and "/ledger/" in path for method, path in proxy.requests):
                proxy.faults = [Fault("unavailable", method="")]
                ended.wait(seconds)
                proxy.faults = []
                return

    thread = threading.Thread(target=happen)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def full_disk(stage: Stage, folder: Path) -> dict[str, Any]:
    """The output is a small disk: the job stops with the reason, nothing is half-committed, and goes on with room."""
    dataset = folder / "dataset"
    size = sum(path.stat().st_size for path in stage.expected.rglob("*") if path.is_file())
    filler = folder / "filler"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    filler.write_bytes(bytes(max(0, free - size // 2)))
    output = run(*encode(stage.tars, dataset), expect=(1, 4))
    assert "storage-full" in output, output
    assert "No space left on device" in output, output
    assert not list((dataset / "quarantine").rglob("*.json"))
    committed = {path: path.read_bytes() for path in (dataset / "ledger").rglob("*.json")}
    filler.unlink()
    run(*encode(stage.tars, dataset))
    assert {path: path.read_bytes() for path in committed} == committed
    assert not [path for path in dataset.rglob("*") if ".tmp-" in path.name]
    run("validate", str(dataset), "--level", "values", module="schemas")
    require_equal(str(stage.expected), str(dataset))
    return {"records_before": len(committed)}


def full_disk_of_a_worker(stage: Stage, folder: Path) -> dict[str, Any]:
    """Ray's folder and all temporary files are on a disk that fills up on the way.

    Workers write nothing but logs there, so it must not change what is made. One that is full before is passed over by
    Python, which looks for another temporary folder.
    """
    filler, variables = folder / "filler", {"TMPDIR": str(folder), **stage.settings}
    dataset = f"{stage.bucket}/worker-disk"
    with start(*encode(stage.inputs, dataset), **variables) as driver:
        while not stage.keys("worker-disk/ledger"):
            assert driver.poll() is None, driver.communicate()[0]
            time.sleep(0.05)
        records = len(stage.keys("worker-disk/ledger"))
        _fill(filler)
        ray_is_there = any(path.name == "session_latest" for path in folder.rglob("*"))
        output = driver.communicate(timeout=3000)[0]
    filler.unlink()
    assert ray_is_there, "Ray's folder was elsewhere"
    assert driver.returncode == 0, output
    run("validate", dataset, "--level", "values", module="schemas", **stage.settings)
    with mock.patch.dict(os.environ, stage.settings):
        require_equal(str(stage.expected), dataset)
    return {"records_when_full": records}


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(2**20)):
            pass

"""Damage, loss and stalls as the training loop meets them: healed without a trace, or an error from `next` in time."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

import schemas
from schemas.dataset import Dataset
from schemas.errors import EncodeOnceError
from schemas.ledger import Part
from tests.datasets import make_latent_manifest, make_manifest, samples, write_dataset
from tests.faulty_proxy import Fault, FaultyProxy, Kind, faulty_proxy
from tests.s3_server import s3_bucket, s3_server
from trainer.conditioning import ConditioningConfig
from trainer.stream import fetch
from trainer.stream.batch import Batch
from trainer.stream.config import StreamConfig
from trainer.stream.loader import StreamLoader

CONFIG = StreamConfig(
    num_streams=2, num_threads=1, num_readers=2, ready_batches=1, read_attempts=3, read_timeout_seconds=20.0
)
ROWS = {"txt": {"a": samples(13, prefix="a"), "b": samples(10, prefix="b")}}
URL = "s3://loader-faults/dataset"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of captions and images that nothing has happened to."""
    folder = tmp_path_factory.mktemp("whole")
    write_dataset(str(folder), make_manifest(), ROWS, make_latent_manifest())
    return folder


@pytest.fixture(scope="module")
def undisturbed(whole: Path) -> list[Batch]:
    return list(loader(str(whole)))


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultyProxy]:
    """Before a bucket with the same dataset, which is read through it."""
    with s3_server() as endpoint, s3_bucket(endpoint, "loader-faults"), faulty_proxy(endpoint) as proxy:
        write_dataset(URL, make_manifest(), ROWS, make_latent_manifest())
        with mock.patch.dict("os.environ", {"AWS_ENDPOINT": proxy.url}):
            yield proxy


@pytest.fixture(autouse=True)
def no_fault_left(request: pytest.FixtureRequest) -> None:
    if "proxy" in request.fixturenames:
        request.getfixturevalue("proxy").faults.clear()


def loader(url: str, **config: Any) -> StreamLoader:
    settings = dataclasses.replace(CONFIG, **config)
    conditioning = ConditioningConfig(dropout=(0.3, 0.3, 0.3))
    options: dict[str, Any] = {"seed": 3, "batch_size": 4, "num_epochs": 2, "dtype": torch.float32}
    return StreamLoader([schemas.open_dataset(url)], settings, conditioning, **options)


def require_same(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.next_position == other.next_position
        assert one.keys == other.keys
        assert np.array_equal(one.valid, other.valid)
        assert torch.equal(one.prompt_embeds, other.prompt_embeds)
        assert torch.equal(one.pooled_prompt_embeds, other.pooled_prompt_embeds)
        for images, others in zip(one.latents, other.latents, strict=True):
            assert torch.equal(images.latents, others.latents)


def failure(stream: StreamLoader) -> tuple[list[Batch], EncodeOnceError]:
    """The batches before an error, which must come in time, and the error."""
    batches: list[Batch] = []
    started = time.monotonic()
    with pytest.raises(EncodeOnceError) as raised:
        batches.extend(stream)
    assert time.monotonic() - started < 200
    return batches, raised.value


def a_part(dataset: Dataset, group: str) -> Part:
    return dataset.record(group, "a").parts[-1]


def part_file(folder: Path, group: str) -> Path:
    return folder / "shards" / "a" / a_part(schemas.open_dataset(str(folder)), group).name


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    chunk_byte = len(data) // 2
    data[chunk_byte] ^= 0x04
    file.write_bytes(data)


@pytest.mark.parametrize("group", ["txt", "latents"])
@pytest.mark.parametrize(
    ("fault", "code"),
    [("flip", "chunk-checksum"), ("truncate", "object-too-short"), ("delete", "object-missing")],
)
def test_what_stays_damaged_ends_the_iteration_by_name(
    copy: Path, undisturbed: list[Batch], group: str, fault: str, code: str
) -> None:
    file = part_file(copy, group)
    intact = file.read_bytes()
    if fault == "flip":
        flip(file)
    elif fault == "truncate":
        os.truncate(file, file.stat().st_size // 2)
    else:
        file.unlink()
    stream = loader(str(copy))
    batches, error = failure(stream)
    assert error.code == code
    assert str(file) in error.where
    # What came before is right, and nothing was left out to get there.
    require_same(batches, undisturbed[: len(batches)])
    assert stream.state_dict()["position"] == (batches[-1].next_position if batches else 0)
    # Mended, the same run goes on where it stopped.
    state = stream.state_dict()
    file.write_bytes(intact)
    resumed = loader(str(copy))
    resumed.load_state_dict(state)
    require_same(batches + list(resumed), undisturbed)


def test_a_part_that_disappears_during_the_run(copy: Path, undisturbed: list[Batch]) -> None:
    file = part_file(copy, "txt")
    stream = loader(str(copy), memory_bytes=150_000)
    iterator = iter(stream)
    batches = list(itertools.islice(iterator, 2))
    file.unlink()
    with pytest.raises(EncodeOnceError, match="object-missing") as raised:
        batches.extend(iterator)
    assert str(file) in raised.value.where
    require_same(batches, undisturbed[: len(batches)])
    assert len(batches) < len(undisturbed)


@pytest.mark.parametrize("kind", ["flip", "shorten", "truncate", "unavailable", "reset"])
def test_what_a_reread_heals_leaves_no_trace(proxy: FaultyProxy, undisturbed: list[Batch], kind: Kind) -> None:
    proxy.faults += [Fault(kind, "shards/", times=1), Fault(kind, "latents-", times=2, skip=3)]
    require_same(list(loader(URL)), undisturbed)
    assert [fault.times for fault in proxy.faults] == [0, 0]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("flip", "chunk-checksum"),
        ("shorten", "storage-failed"),
        ("missing", "object-missing"),
        ("stall", "read-timeout"),
        ("unavailable", "read-timeout"),
    ],
)
def test_a_bucket_that_stays_faulty_ends_the_iteration_by_name(
    proxy: FaultyProxy, undisturbed: list[Batch], kind: Kind, code: str
) -> None:
    part = a_part(schemas.open_dataset(URL), "txt").name
    proxy.faults.append(Fault(kind, part))
    stream = loader(URL, read_timeout_seconds=4.0)
    batches, error = failure(stream)
    assert error.code == code
    assert f"{URL}/shards/a/{part}" in error.where
    require_same(batches, undisturbed[: len(batches)])
    # Mended, a new run goes on where this one stopped.
    proxy.faults.clear()
    resumed = loader(URL)
    resumed.load_state_dict(stream.state_dict())
    require_same(batches + list(resumed), undisturbed)


def test_a_connection_that_has_died_leaves_no_trace(proxy: FaultyProxy, undisturbed: list[Batch]) -> None:
    proxy.faults.append(Fault("stall", "shards/", times=1))
    require_same(list(loader(URL, read_timeout_seconds=8.0)), undisturbed)


def test_a_damaged_cache_leaves_no_trace(proxy: FaultyProxy, tmp_path: Path, undisturbed: list[Batch]) -> None:
    cached = {"cache": str(tmp_path), "cache_bytes": 10**8}
    require_same(list(loader(URL, **cached)), undisturbed)
    proxy.requests.clear()
    require_same(list(loader(URL, **cached)), undisturbed)
    assert proxy.count("shards/") == 0
    files = sorted((tmp_path / "entries").glob("*/*"))
    flip(files[0])
    os.truncate(files[1], 10)
    files[2].unlink()
    require_same(list(loader(URL, **cached)), undisturbed)
    assert proxy.count("shards/") == 3


FAIL_ON_A_STALL = """
import sys, torch, schemas
from trainer.conditioning import ConditioningConfig
from trainer.stream.config import StreamConfig
from trainer.stream.loader import StreamLoader
config = StreamConfig(num_streams=2, num_threads=1, read_timeout_seconds=4.0)
stream = StreamLoader([schemas.open_dataset(sys.argv[1])], config, ConditioningConfig(), seed=3, batch_size=4)
for batch in stream:
    print(batch.position, flush=True)
"""


def test_a_stalled_store_does_not_keep_the_process_from_ending(proxy: FaultyProxy) -> None:
    proxy.faults.append(Fault("stall", "shards/", skip=6))
    ended = subprocess.run(
        [sys.executable, "-c", FAIL_ON_A_STALL, URL], capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == 1
    assert "[read-timeout]" in ended.stderr

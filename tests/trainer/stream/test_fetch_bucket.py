"""Fetching from a bucket whose store or network misbehaves: healed, or a clear error within a bounded time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest

import schemas
from schemas import storage
from schemas.errors import EncodeOnceError, MissingObjectError, StorageError
from tests.datasets import make_manifest, samples, write_dataset
from tests.faulty_proxy import Fault, FaultyProxy, Kind, faulty_proxy
from tests.s3_server import s3_bucket, s3_server
from trainer.stream import fetch
from trainer.stream.cache import ChunkCache
from trainer.stream.catalog import ChunkRef
from trainer.stream.fetch import ChunkFetcher

URL = "s3://faulty/dataset"


class Bucket:
    """A dataset in a bucket, as seen through a proxy."""

    def __init__(self, proxy: FaultyProxy) -> None:
        self.proxy = proxy
        self.dataset = schemas.open_dataset(URL)
        chunks = self.dataset.record("txt", "s").chunks()
        self.refs = [ChunkRef("txt", "s", part, chunk, index) for index, (part, chunk) in enumerate(chunks)]
        fetcher = self.fetcher()
        self.whole = [fetcher.fetch(ref) for ref in self.refs]

    def fetcher(self, **options: Any) -> ChunkFetcher:
        return ChunkFetcher(self.dataset, **({"attempts": 3, "timeout_seconds": 20.0, "cache": None} | options))

    def fault(self, kind: Kind, ref: ChunkRef, **options: Any) -> None:
        self.proxy.faults[:] = [Fault(kind, ref.part.name, **options)]
        self.proxy.requests.clear()


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with s3_server() as endpoint, s3_bucket(endpoint, "faulty"), faulty_proxy(endpoint) as proxy:
        write_dataset(URL, make_manifest(), {"txt": {"s": samples(16)}})
        with mock.patch.dict("os.environ", {"AWS_ENDPOINT": proxy.url}):
            yield Bucket(proxy)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def without_own_retries(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is repeated below the fetcher."""
    monkeypatch.setattr(storage, "RETRY", {"max_retries": 0, "retry_timeout": timedelta(seconds=1)})
    monkeypatch.setattr("schemas.resend._MOST", 0)
    monkeypatch.setattr(bucket, "dataset", schemas.open_dataset(URL))


def test_chunks_are_one_ranged_read_each(bucket: Bucket) -> None:
    bucket.proxy.faults.clear()
    bucket.proxy.requests.clear()
    fetcher = bucket.fetcher()
    assert [fetcher.fetch(ref) for ref in bucket.refs] == bucket.whole
    assert bucket.proxy.count("shards/") == len(bucket.proxy.requests) == len(bucket.refs)


@pytest.mark.parametrize("kind", ["flip", "shorten"])
def test_a_reread_heals_what_was_damaged_on_the_way(bucket: Bucket, kind: Kind) -> None:
    bucket.fault(kind, bucket.refs[1], times=2)
    fetcher = bucket.fetcher()
    assert fetcher.fetch(bucket.refs[1]) == bucket.whole[1]
    assert fetcher.stats.num_rereads == 2


@pytest.mark.parametrize(
    ("kind", "problem"), [("flip", "chunk-checksum"), ("shorten", "Requested [0-9.]+, got [0-9.]+")]
)
def test_damage_that_stays_names_the_object(bucket: Bucket, kind: Kind, problem: str) -> None:
    bucket.fault(kind, bucket.refs[1])
    with pytest.raises(EncodeOnceError, match=problem) as raised:
        bucket.fetcher().fetch(bucket.refs[1])
    assert f"{URL}/shards/s/{bucket.refs[1].part.name}" in raised.value.where
    assert "after 3 reads" in raised.value.actual
    assert bucket.proxy.count(bucket.refs[1].part.name) == 3


@pytest.mark.parametrize("kind", ["unavailable", "reset", "truncate"])
def test_obstore_retries_what_passes(bucket: Bucket, kind: Kind) -> None:
    bucket.fault(kind, bucket.refs[0], times=1)
    fetcher = bucket.fetcher()
    assert fetcher.fetch(bucket.refs[0]) == bucket.whole[0]
    assert bucket.proxy.count(bucket.refs[0].part.name) == 2
    assert fetcher.stats.num_rereads == 0


@pytest.mark.usefixtures("without_own_retries")
@pytest.mark.parametrize("kind", ["unavailable", "reset"])
def test_what_obstore_gives_up_on_is_read_again(bucket: Bucket, kind: Kind) -> None:
    bucket.fault(kind, bucket.refs[0], times=2)
    fetcher = bucket.fetcher()
    assert fetcher.fetch(bucket.refs[0]) == bucket.whole[0]
    assert fetcher.stats.num_rereads == 2
    bucket.fault(kind, bucket.refs[0])
    with pytest.raises(StorageError, match="storage-failed") as raised:
        bucket.fetcher().fetch(bucket.refs[0])
    assert bucket.refs[0].part.name in raised.value.where


@pytest.mark.parametrize("kind", ["stall", "unavailable", "truncate"])
def test_a_store_that_does_not_come_back_is_ended_by_the_bound(bucket: Bucket, kind: Kind) -> None:
    bucket.fault(kind, bucket.refs[0])
    started = time.monotonic()
    with pytest.raises(StorageError, match="read-timeout") as raised:
        bucket.fetcher(timeout_seconds=0.6).fetch(bucket.refs[0])
    assert time.monotonic() - started < 100
    assert f"{URL}/shards/s/{bucket.refs[0].part.name}" in raised.value.where
    bucket.proxy.faults.clear()
    assert bucket.fetcher().fetch(bucket.refs[0]) == bucket.whole[0]


def test_a_connection_that_has_died_is_replaced(bucket: Bucket) -> None:
    bucket.fault("stall", bucket.refs[2], times=1)
    fetcher = bucket.fetcher(timeout_seconds=8.0)
    assert fetcher.fetch(bucket.refs[2]) == bucket.whole[2]
    assert fetcher.stats.num_rereads == 1


def test_an_object_that_is_gone_is_an_error_at_once(bucket: Bucket) -> None:
    bucket.fault("missing", bucket.refs[0])
    with pytest.raises(MissingObjectError, match="object-missing") as raised:
        bucket.fetcher().fetch(bucket.refs[0])
    assert raised.value.where == f"{URL}/shards/s/{bucket.refs[0].part.name}"
    assert bucket.proxy.count(bucket.refs[0].part.name) == 1


def test_a_cached_chunk_needs_no_store(bucket: Bucket, tmp_path: Path) -> None:
    bucket.proxy.faults.clear()
    fetcher = bucket.fetcher(cache=ChunkCache(tmp_path, 10**7))
    assert [fetcher.fetch(ref) for ref in bucket.refs] == bucket.whole
    bucket.fault("stall", bucket.refs[0])
    assert fetcher.fetch(bucket.refs[0]) == bucket.whole[0]
    assert bucket.proxy.count(bucket.refs[0].part.name) == 0


def test_damage_on_the_way_is_never_cached(bucket: Bucket, tmp_path: Path) -> None:
    bucket.fault("flip", bucket.refs[0], times=1)
    fetcher = bucket.fetcher(cache=ChunkCache(tmp_path, 10**7))
    assert fetcher.fetch(bucket.refs[0]) == bucket.whole[0]
    stats = fetcher.stats
    assert (stats.num_reads, stats.num_rereads, stats.num_cache_misses) == (2, 1, 2)
    assert fetcher.fetch(bucket.refs[0]) == bucket.whole[0]
    assert fetcher.stats.num_cache_hits == 1
    assert fetcher.stats.num_cache_damaged == 0


FETCH_AND_FAIL = """
import sys
import schemas
from trainer.stream.catalog import ChunkRef
from trainer.stream.fetch import ChunkFetcher

dataset = schemas.open_dataset(sys.argv[1])
part, chunk = next(dataset.record("txt", "s").chunks())
fetcher = ChunkFetcher(dataset, attempts=5, timeout_seconds=0.4, cache=None)
fetcher.fetch(ChunkRef("txt", "s", part, chunk, 0))
"""


def test_a_stalled_read_does_not_keep_the_process_from_ending(bucket: Bucket) -> None:
    bucket.fault("stall", bucket.refs[0])
    ended = subprocess.run(
        [sys.executable, "-c", FETCH_AND_FAIL, URL], capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-4].startswith("schemas.errors.StorageError: [read-timeout]")
    # It was stuck in the store when it ended, not refused.
    assert bucket.proxy.count(bucket.refs[0].part.name) == 2


def test_buffers_keep_their_memory(bucket: Bucket) -> None:
    bucket.proxy.faults.clear()
    found = bucket.fetcher().fetch(bucket.refs[0])
    assert isinstance(found, pa.Buffer)
    copy = found.to_pybytes()
    for ref in bucket.refs:
        bucket.fetcher().fetch(ref)
    assert found.to_pybytes() == copy

"""The storage door on S3, as moto plays it on loopback: the same promises, and a whole dataset."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from moto.server import ThreadedMotoServer

import schemas
from schemas.errors import DamagedDataError, MissingObjectError, StorageError
from schemas.ledger import part_path
from schemas.storage import Store
from schemas.validator import validate
from tests.datasets import make_manifest, samples, write_dataset


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"b{abs(hash(request.node.name))}"
    boto3.client("s3", endpoint_url=server, region_name="us-east-1").create_bucket(Bucket=name)
    return f"s3://{name}/some/prefix"


def test_the_first_create_wins(bucket: str) -> None:
    store = Store(bucket)
    assert store.create("r/x.json", b"first")
    assert not store.create("r/x.json", b"second")
    assert store.get("r/x.json") == b"first"
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.create("race", bytes([n]) * 1000), range(8)))
    assert won.count(True) == 1
    assert store.get("race") == bytes([won.index(True)]) * 1000


def test_reading_and_listing(bucket: str) -> None:
    store = Store(bucket)
    store.replace("a/x", b"0123456789")
    store.replace("a/x", b"abcdefghij")
    store.replace("a/é 日本#?%20", b"1")
    store.replace("ab/y", b"2")
    info = store.head("a/x")
    assert info is not None
    assert (info.path, info.num_bytes) == ("a/x", 10)
    assert info.e_tag
    assert store.get_range("a/x", 2, 3) == b"cde"
    assert store.get_ranges("a/x", [0, 8], [1, 2]) == [b"a", b"ij"]
    assert sorted(found.path for found in store.list("a")) == ["a/x", "a/é 日本#?%20"]
    assert sorted(found.path for found in store.list()) == ["a/x", "a/é 日本#?%20", "ab/y"]
    with pytest.raises(DamagedDataError, match="object-too-short"):
        store.get_range("a/x", 8, 3)
    with pytest.raises((DamagedDataError, StorageError)):
        store.get_range("a/x", 10, 1)
    store.delete(["a/x", "a/x", "never/there"])
    assert store.head("a/x") is None
    for read in (lambda: store.get("a/x"), lambda: store.get_range("a/x", 0, 1)):
        with pytest.raises(MissingObjectError, match="object-missing"):
            read()


def test_a_large_part_goes_up_in_pieces(bucket: str) -> None:
    store = Store(bucket)
    # As parts come: bytes, and views of memory that is stored as it is.
    pieces = [one if n % 2 else memoryview(bytearray(one)) for n in range(8) for one in [bytes([n]) * 5_000_000]]
    assert store.create_content_addressed("shards/p", pieces, 40_000_000)
    assert store.get("shards/p", max_bytes=10**8) == b"".join(pieces)
    assert not store.create_content_addressed("shards/p", [b"never read"], 40_000_000)


@pytest.mark.parametrize("container", ["arrow", "webdataset"])
def test_a_dataset_in_a_bucket(bucket: str, container: str) -> None:
    store = write_dataset(bucket, make_manifest(container), {"txt": {"a/b": samples(7, missing=[2]), "c": samples(3)}})
    dataset = schemas.open_dataset(bucket)
    assert [row.key for row in dataset.rows("txt")] == [row.key for row in [*samples(7), *samples(3)]]
    report = validate(bucket, "values", source=False)
    assert report.findings == ()
    part = part_path("c", dataset.record("txt", "c").parts[0].name)
    data = bytearray(store.get(part))
    data[5000] ^= 1
    store.replace(part, bytes(data))
    report = validate(bucket)
    assert report.counts == {"chunk-checksum": 1, "part-checksum": 1}
    assert {finding.file for finding in report.findings} == {part}
    store.delete([part])
    assert validate(bucket, "structure").counts == {"part-missing": 1}


def test_nothing_there(bucket: str) -> None:
    with pytest.raises(MissingObjectError):
        validate(bucket)

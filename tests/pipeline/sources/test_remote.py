"""The same tars on an object store: an S3 server on the loopback interface."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from pipeline.sources import block_reader, list_inputs, samples, scan_tar
from pipeline.sources.block_reader import ReadPlan
from schemas import storage
from schemas.errors import ConfigError, DamagedDataError
from tests.faulty_proxy import Fault, Kind, faulty_proxy
from tests.golden.make_tars import FOLDER
from tests.golden.tar_bytes import END, member, sample
from tests.pipeline.sources.tars import captions, summary
from tests.s3_server import s3_bucket, s3_server

BUCKET = "captions"
EXPECTED = json.loads((FOLDER / "expected.json").read_bytes())


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def s3(endpoint: str) -> Iterator[object]:
    with s3_bucket(endpoint, BUCKET) as client:
        yield client


def put(client: object, *keys: str, data: bytes = END) -> None:
    for key in keys:
        client.put_object(Bucket=BUCKET, Key=key, Body=data)


def shards(url: str) -> list[str]:
    return [tar.shard for tar in list_inputs(url).tars]


@pytest.mark.parametrize("budget", [2**26, 0], ids=["in_memory", "read_again"])
def test_golden_tars_are_read_as_locally(s3: object, monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    monkeypatch.setattr(samples, "CAPTION_BUDGET_BYTES", budget)
    # Small blocks, so that reading ahead and jumping happen in small tars.
    monkeypatch.setattr(block_reader, "REMOTE", ReadPlan(1024, 4096, 2048, reads_ahead=True))
    # Damage, long and odd names, JSON, and both ends of a size.
    names = ["plain", "several_captions", "declared_2_gb", "gnu_long_names", "odd_texts", "zero_bytes", "json_faults"]
    for name in names:
        put(s3, f"in/{name}.tar", data=(FOLDER / f"{name}.tar").read_bytes())
    inputs = list_inputs(f"s3://{BUCKET}/in")
    assert [tar.shard for tar in inputs.tars] == sorted(names)
    for tar in inputs.tars:
        expected = EXPECTED[tar.shard]
        assert summary(scan_tar(inputs.store, tar, list(expected["captions"]))) == expected


def test_inputs_of_a_bucket(s3: object) -> None:
    put(s3, "in/0.tar", "in/1.tar", "in/x/2.tar", "in/_tmp/3.tar", "in/.4.tar", "in/we ird#%20[é]+.tar", "in/a.txt")
    put(s3, "other/5.tar", "6.tar")
    assert shards(f"s3://{BUCKET}/in") == shards(f"s3://{BUCKET}/in/") == ["0", "1", "we ird#%20[é]+", "x/2"]
    assert shards(f"s3://{BUCKET}") == ["6", "in/0", "in/1", "in/we ird#%20[é]+", "in/x/2", "other/5"]
    assert shards(f"s3://{BUCKET}/in/{{0..1}}.tar") == shards(f"s3://{BUCKET}/in/?.tar") == ["0", "1"]
    assert shards(f"s3://{BUCKET}/*/?.tar") == ["in/0", "in/1", "other/5"]
    assert shards(f"s3://{BUCKET}/**/[2-6].tar") == ["6", "in/x/2", "other/5"]
    assert shards(f"s3://{BUCKET}/in/x/2.tar") == ["2"]
    assert shards(f"s3://{BUCKET}/{{in,other}}/[15].tar") == ["in/1", "other/5"]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("in/{0..2}.tar", "input-missing"),
        ("in/2.tar", "input-not-found"),
        ("nowhere", "input-not-found"),
        ("in/*/x.tar", "input-not-found"),
        ("double", "input-name-unsafe"),
        ("double/*/y.tar", "input-name-unsafe"),
    ],
)
def test_inputs_that_are_refused(s3: object, url: str, code: str) -> None:
    put(s3, "in/0.tar", "in/1.tar", "double//x.tar")
    with pytest.raises(ConfigError) as caught:
        list_inputs(f"s3://{BUCKET}/{url}")
    assert caught.value.code == code


def test_wildcards_list_only_the_folders_they_need(s3: object, monkeypatch: pytest.MonkeyPatch) -> None:
    # A name that cannot be listed shows which folders were.
    put(s3, "in/a/0.tar", "in/b/0.tar", "in/c//unlistable.tar", "d//unlistable.tar")
    assert shards(f"s3://{BUCKET}/in/[ab]/*.tar") == ["a/0", "b/0"]
    assert shards(f"s3://{BUCKET}/in/{{a,b}}/*.tar") == ["a/0", "b/0"]
    assert shards(f"s3://{BUCKET}/*/a/0.tar") == ["in/a/0"]


@pytest.mark.parametrize("url", [f"s3://{BUCKET}/in", f"s3://{BUCKET}/i*/?.tar"])
@pytest.mark.parametrize("kind", ["truncate", "reset"])
def test_a_listing_that_breaks_off_is_made_again(
    s3: object, endpoint: str, monkeypatch: pytest.MonkeyPatch, url: str, kind: Kind
) -> None:
    put(s3, *(f"in/{name}.tar" for name in "abc"))
    with faulty_proxy(endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT", proxy.url)
        proxy.faults = [Fault(kind, path="list-type=2", times=2)]
        assert [name[-1] for name in shards(url)] == ["a", "b", "c"]
        assert proxy.faults[0].times == 0, "nothing was disturbed"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Offset and length of every ranged read."""
    seen: list[tuple[int, int]] = []
    get_range = storage.Store.get_range

    def noted(store: storage.Store, path: str, offset: int, num_bytes: int) -> bytes:
        seen.append((offset, num_bytes))
        return get_range(store, path, offset, num_bytes)

    monkeypatch.setattr(storage.Store, "get_range", noted)
    monkeypatch.setattr(block_reader, "REMOTE", ReadPlan(8192, 8192, 8192, reads_ahead=True))
    return seen


def test_tar_is_read_once_in_blocks(s3: object, requests: list[tuple[int, int]]) -> None:
    data = b"".join(sample(f"{number:02d}", f"caption {number}") for number in range(20)) + END
    put(s3, "x.tar", data=data)
    inputs = list_inputs(f"s3://{BUCKET}/x.tar")
    assert captions(scan_tar(inputs.store, inputs.tars[0], ["txt"]))["19"] == "caption 19"
    assert sorted(requests) == [(offset, min(8192, len(data) - offset)) for offset in range(0, len(data), 8192)]


def test_large_bodies_are_jumped_over(s3: object, requests: list[tuple[int, int]]) -> None:
    put(s3, "x.tar", data=member("a.jpg", bytes(100_000)) + member("a.txt", "after a large image") + END)
    inputs = list_inputs(f"s3://{BUCKET}/x.tar")
    assert captions(scan_tar(inputs.store, inputs.tars[0], ["txt"])) == {"a": "after a large image"}
    # The first block, the one that was under way, and the one behind the image.
    assert sum(num_bytes for _, num_bytes in requests) < 20_000


def test_tar_that_is_rewritten_is_refused(s3: object) -> None:
    put(s3, "x.tar", data=sample("a", "one") + END)
    inputs = list_inputs(f"s3://{BUCKET}/x.tar")
    for data in (sample("a", "two") + END, sample("a", "one"), sample("a", "one") + END + END):
        put(s3, "x.tar", data=data)
        with pytest.raises(DamagedDataError) as caught:
            scan_tar(inputs.store, inputs.tars[0], ["txt"])
        assert caught.value.code == "input-changed"

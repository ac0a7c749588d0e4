"""Connections that break, before and after the deed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from unittest import mock

import boto3
import pytest
from obstore.exceptions import GenericError

from schemas.resend import RETRY, resend, resume
from schemas.storage import Store
from tests.faulty_proxy import Fault, FaultyProxy, Kind, faulty_proxy
from tests.s3_server import s3_server


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultyProxy]:
    """Before a server with a bucket, in the environment."""
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}
    with s3_server() as endpoint, faulty_proxy(endpoint) as proxy:
        client = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
        )
        client.create_bucket(Bucket="resend")
        with mock.patch.dict("os.environ", {**keys, "AWS_ENDPOINT": proxy.url}):
            yield proxy


@pytest.mark.parametrize("kind", ["reset", "lost"])
def test_a_create_and_a_delete_survive_broken_connections(kind: Kind, proxy: FaultyProxy) -> None:
    store = Store(f"s3://resend/{kind}")
    proxy.faults = [Fault(kind, method="PUT", times=2)]
    assert store.create("record", b"mine")
    assert not store.create("record", b"other")
    proxy.faults = [Fault(kind, method="PUT", times=1)]
    assert not store.create("record", b"other")
    proxy.faults = [Fault(kind, method="PUT", times=1)]
    store.replace("index", b"1")
    proxy.faults = [Fault(kind, method="PUT", times=1)]
    assert store.create_content_addressed("part", (bytes([n]) * 10 for n in range(3)), 30)
    assert store.get("part") == bytes(10) + b"\x01" * 10 + b"\x02" * 10
    proxy.faults = [Fault(kind, method="POST", times=1)]
    store.delete(["record"])
    assert store.head("record") is None


@pytest.mark.parametrize("kind", ["reset", "lost", "truncate"])
def test_every_way_to_read_survives_broken_connections(kind: Kind, proxy: FaultyProxy) -> None:
    store = Store(f"s3://resend/read-{kind}")
    proxy.faults = []
    content = {f"a/{number:04d}": bytes([number % 256]) * 64 for number in range(40)}
    for path, data in content.items():
        store.replace(path, data)
    for read, expected in (
        (lambda: store.get("a/0007"), content["a/0007"]),
        (lambda: store.get_range("a/0007", 3, 5), content["a/0007"][3:8]),
        (lambda: store.get_ranges("a/0007", [0, 60], [2, 4]), [content["a/0007"][:2], content["a/0007"][60:]]),
        (lambda: sorted(info.path for info in store.list("a")), sorted(content)),
    ):
        proxy.faults = [Fault(kind, times=2)]
        assert read() == expected
        assert proxy.faults[0].times == 0, "nothing was disturbed"


def test_a_create_of_more_than_a_document_survives_a_lost_answer(proxy: FaultyProxy) -> None:
    """Rejects of a shard of which nearly nothing can be encoded."""
    store, data = Store("s3://resend/large"), bytes(17 * 1024**2)
    proxy.faults = [Fault("lost", method="PUT", times=1)]
    assert store.create("rejects", data)
    proxy.faults = [Fault("lost", method="PUT", times=1)]
    assert not store.create("rejects", data[:-1])
    found = store.head("rejects")
    assert found is not None
    assert found.num_bytes == len(data)


def test_a_listing_goes_on_where_it_broke() -> None:
    names = [f"{number:02d}" for number in range(10)]
    asked: list[str | None] = []
    breaks = {"03", "07"}

    def pages(after: str | None) -> Iterator[str]:
        asked.append(after)
        for name in names[0 if after is None else names.index(after) + 1 :]:
            if name in breaks:
                breaks.remove(name)
                raise GenericError("Generic S3 error: HTTP error: request or response body error")
            yield name

    assert list(resume(pages, str)) == names
    assert asked == [None, "02", "06"]


def test_what_does_not_mend_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("time.sleep", calls.append)

    def broken() -> None:
        raise GenericError("HTTP error: error sending request")

    def refused() -> None:
        raise GenericError("Server returned non-2xx status code: 400 Bad Request")

    with pytest.raises(GenericError, match="sending"):
        resend(broken)
    assert len(calls) == 8
    with pytest.raises(GenericError, match="400"):
        resend(refused)
    assert len(calls) == 8


@pytest.mark.parametrize("kind", ["reset", "lost"])
@pytest.mark.parametrize(("method", "skip"), [("POST", 0), ("PUT", 0), ("PUT", 1), ("POST", 1)])
def test_an_upload_in_pieces_survives_broken_connections(
    kind: Kind, method: str, skip: int, proxy: FaultyProxy
) -> None:
    """Its beginning, its pieces, and its end."""
    store, num_bytes = Store(f"s3://resend/pieces-{kind}-{method}-{skip}"), 20 * 1024**2
    proxy.faults = [Fault(kind, method=method, times=1, skip=skip)]
    assert store.create_content_addressed("part", [b"a" * num_bytes], num_bytes)
    assert proxy.faults[0].times == 0
    assert store.get("part", max_bytes=num_bytes) == b"a" * num_bytes
    assert not store.create_content_addressed("part", [b"a" * num_bytes], num_bytes)


def test_the_pauses_that_obstore_is_asked_for_outlast_a_minute() -> None:
    """As it draws them: the first is the least, each later one lies between that and `base` times the one before."""
    backoff, draw = RETRY["backoff"], random.Random(1)
    first, most = (backoff[name].total_seconds() for name in ("init_backoff", "max_backoff"))
    for _ in range(2000):
        pause, waited = first, 0.0
        for _ in range(RETRY["max_retries"]):
            waited += pause
            pause = min(most, draw.uniform(first, pause * backoff["base"]))
        assert waited > 75
    assert RETRY["retry_timeout"].total_seconds() > 75

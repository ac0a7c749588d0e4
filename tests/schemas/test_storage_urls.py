"""No document of a stranger has a server asked that is no store, though the library beneath would ask it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from schemas.errors import ConfigError
from schemas.ledger import read_record
from schemas.storage import Store
from schemas.validator import validate
from tests.datasets import make_manifest, samples, write_dataset
from tests.golden.damage_dataset import Victim


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "https://host/x", "HTTP://host/x", "memory:///x", "ftp://h/x"])
def test_a_server_that_is_no_store_is_no_url(url: str) -> None:
    with pytest.raises(ConfigError, match="storage-url-invalid") as caught:
        Store(url)
    assert "the scheme" in caught.value.actual


@pytest.mark.parametrize("url", ["s3://captions--usw2-az1--x-s3", "s3a://captions--usw2-az1--x-s3/dataset"])
def test_a_bucket_that_lists_in_no_order_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="bucket-kind") as caught:
        Store(url)
    assert caught.value.where == url
    assert Store("s3://captions--x-s3-too/dataset--x-s3").url == "s3://captions--x-s3-too/dataset--x-s3"


def test_a_source_at_a_server_is_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wrote the record would have servers asked that only the validator's machine can reach."""
    store = write_dataset(str(tmp_path), make_manifest(), {"txt": {"s": samples(3)}})
    source = read_record(store, "txt", "s").source.model_dump(mode="json")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")  # As for an S3 server of one's own.
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/s.tar"
        Victim(tmp_path, make_manifest()).reseal("txt", "s", source=source | {"url": url})
        assert validate(str(tmp_path), "values").counts == {"source-unreachable": 1}
        with pytest.raises(BlockingIOError):
            server.accept()

"""What is asked of Azure's and Google's stores, by a server that answers as they do.

Whole jobs run on Azurite: `python -m tests.object_stores --server azurite`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from schemas.errors import MissingObjectError, StorageError
from schemas.storage import Store

KEY = "c2VjcmV0LW9mLWF6dXJl"


@dataclass
class Recorded:
    """Requests so far, and what the next are answered."""

    url: str = ""
    status: int = 201
    code: str = ""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    uploaded: dict[str, int] = field(default_factory=dict)
    """Azure's objects whose blocks were put together, an answer that nobody got; the same again is refused."""


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    recorded = Recorded()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_PUT(self) -> None:
            length = len(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            path, _, query = self.path.partition("?")
            if query == "comp=blocklist":
                self._answer(400, "InvalidBlockList")
            else:
                recorded.uploaded[path] = recorded.uploaded.get(path, 0) + length
                self._answer()

        def do_HEAD(self) -> None:
            length = recorded.uploaded.get(self.path)
            self.send_response(404 if length is None else 200)
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Mon, 23 Nov 2026 00:00:00 GMT")
            self.send_header("Content-Length", str(length or 0))
            self.end_headers()

        def _answer(self, status: int | None = None, code: str | None = None) -> None:
            status, code = status or recorded.status, code or recorded.code
            headers = {name.lower(): value for name, value in self.headers.items()}
            recorded.requests.append((self.command, self.path, headers))
            body = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
            self.send_response(status)
            self.send_header("ETag", '"1"')
            self.send_header("x-goog-generation", "1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    recorded.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", recorded.url)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    account = {
        "gcs_base_url": recorded.url,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account))
    monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    yield recorded
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("url", "header", "value", "status", "code"),
    [
        ("az://bucket/x", "if-none-match", "*", 409, "BlobAlreadyExists"),
        ("gs://bucket/x", "x-goog-if-generation-match", "0", 412, "PreconditionFailed"),
    ],
)
def test_a_commit_is_one_conditional_put(
    cloud: Recorded, url: str, header: str, value: str, status: int, code: str
) -> None:
    assert Store(url).create("ledger/a.json", b"1")
    ((method, path, headers),) = cloud.requests
    assert method == "PUT"
    assert unquote(path).endswith("bucket/x/ledger/a.json")
    assert headers[header] == value
    cloud.status, cloud.code = status, code
    assert not Store(url).create("ledger/a.json", b"2")


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("az://bucket/x", "ContainerNotFound", "bucket-missing"),
        ("az://bucket/x", "BlobNotFound", "object-missing"),
        ("gs://bucket/x", "NoSuchBucket", "bucket-missing"),
        ("gs://bucket/x", "NoSuchKey", "object-missing"),
    ],
)
def test_what_is_missing_is_told(cloud: Recorded, url: str, code: str, said: str) -> None:
    cloud.status, cloud.code = 404, code
    with pytest.raises((MissingObjectError, StorageError)) as caught:
        Store(url).get("y")
    assert caught.value.code == said
    assert url in caught.value.where


def test_azure_requests_are_signed_and_the_key_is_told_to_nobody(cloud: Recorded) -> None:
    cloud.status, cloud.code = 403, "AuthenticationFailed"
    with pytest.raises(StorageError, match="storage-failed") as caught:
        Store("az://bucket/x").get("y")
    assert cloud.requests[0][2]["authorization"].startswith("SharedKey account:")
    assert KEY not in str(caught.value)


def test_a_part_that_is_there_although_azure_refuses_its_end_is_there(cloud: Recorded) -> None:
    assert Store("az://bucket/x").create_content_addressed("part", [b"123"], 3)
    assert [path for _, path, _ in cloud.requests if path.endswith("comp=blocklist")]
    with pytest.raises(StorageError, match="InvalidBlockList"):
        # Another length is there: not this one.
        Store("az://bucket/x").create_content_addressed("other", [b"123"], 4)

"""Credentials from a profile, where the environment has none; and nobody is told them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from schemas.errors import ConfigError, StorageError
from schemas.storage import Store

PROFILES = """
[default]
aws_access_key_id = DEFAULTKEY
aws_secret_access_key = default-secret
[other]
aws_access_key_id = OTHERKEY
aws_secret_access_key = other-secret
aws_session_token = other-token
[empty]
region = eu-west-1
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[dict[str, str]]]:
    """Headers of the requests to a server that refuses all of them; the environment has profiles and no keys."""
    headers: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers.append(dict(self.headers))
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "credentials").write_text(PROFILES)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    yield headers
    server.shutdown()
    server.server_close()
    thread.join()


def ask() -> str:
    with pytest.raises(StorageError) as caught:
        Store("s3://bucket/x").get("y")
    return str(caught.value)


def test_the_default_profile(asked: list[dict[str, str]]) -> None:
    assert "default-secret" not in ask()
    assert "Credential=DEFAULTKEY/" in asked[0]["authorization"]


def test_a_profile_by_name_with_a_session_token(asked: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "other")
    said = ask()
    assert "Credential=OTHERKEY/" in asked[0]["authorization"]
    assert asked[0]["x-amz-security-token"] == "other-token"
    assert "other-secret" not in said
    assert "other-token" not in said
    assert "other-secret" not in repr(Store("s3://bucket/x").backend)


def test_keys_in_the_environment_come_first(asked: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "env-secret")
    assert "env-secret" not in ask()
    assert "Credential=ENVKEY/" in asked[0]["authorization"]


@pytest.mark.parametrize("name", ["nobody", "empty"])
@pytest.mark.usefixtures("asked")
def test_a_profile_that_is_of_no_use(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigError, match=f"storage-url-invalid.*\\n.*\\n.*{name}"):
        Store("s3://bucket/x")

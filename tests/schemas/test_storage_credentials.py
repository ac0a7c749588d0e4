"""Credentials from a profile, where the environment has none; and nobody is told them."""

from __future__ import annotations

import json
import os
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

GRANTED = json.dumps({
    "Code": "Success",
    "AccessKeyId": "ROLEKEY",
    "SecretAccessKey": "role-secret",
    "Token": "role-token",
    "Expiration": "2100-01-01T00:00:00Z",
})  # fmt: skip
ROLE = "/latest/meta-data/iam/security-credentials/"
GRANTS = {ROLE: "the-role", f"{ROLE}the-role": GRANTED, "/container": GRANTED}
"""What an instance's metadata service answers, and a container's."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[dict[str, str]]]:
    """Headers of the requests to a server that refuses all of them; the environment has profiles and no keys."""
    headers: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            granted = GRANTS.get(self.path)
            if granted is None:
                headers.append(dict(self.headers))
            self._answer(403 if granted is None else 200, granted or "")

        def do_PUT(self) -> None:
            self._answer(200 if self.path == "/latest/api/token" else 404, "session")

        def _answer(self, status: int, body: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
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


@pytest.mark.parametrize("kind", ["instance", "container"])
def test_a_role_where_there_is_nothing_else(
    asked: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """Of a machine, and of a container: a key, a secret and a token for a while."""
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    endpoint = os.environ["AWS_ENDPOINT"]
    if kind == "instance":
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", endpoint)
    else:
        (tmp_path / "authorization").write_text("let-me-in")
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{endpoint}/container")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "authorization"))
    said = ask()
    assert "Credential=ROLEKEY/" in asked[0]["authorization"]
    assert asked[0]["x-amz-security-token"] == "role-token"
    for secret in ("role-secret", "role-token", "let-me-in"):
        assert secret not in said
        assert secret not in repr(Store("s3://bucket/x").backend)


@pytest.mark.parametrize("name", ["nobody", "empty"])
@pytest.mark.usefixtures("asked")
def test_a_profile_that_is_of_no_use(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigError, match=f"storage-url-invalid.*\\n.*\\n.*{name}"):
        Store("s3://bucket/x")

"""Azurite, Microsoft's emulator of Azure's blob storage, on the loopback interface. It checks signatures.

From npm (`npm install --global azurite`); used by the long form with `--server azurite` only.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

PROGRAM = "azurite-blob"
ACCOUNT = "encodeoncetest"
SECRET_KEY = base64.b64encode(b"s3cr3t-that-must-not-be-told").decode()
_START_SECONDS = 300


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """Starts it in a folder and ends it; yields its endpoint, without the account."""
    program = shutil.which(PROGRAM)
    assert program is not None, f"{PROGRAM} is not on the PATH"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    environment = {**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{SECRET_KEY}"}
    with subprocess.Popen([*command, *where], env=environment, stdout=subprocess.DEVNULL) as server:
        try:
            _wait_for(port, server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def settings(endpoint: str) -> dict[str, str]:
    """What a user has in the environment, for an emulator."""
    return {
        "AZURE_STORAGE_USE_EMULATOR": "true",
        "AZURITE_BLOB_STORAGE_URL": endpoint,
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": SECRET_KEY,
    }


def make_container(endpoint: str, name: str) -> None:
    """Makes a container. Store's client makes none, so the request is signed here, as Azure's Shared Key wants it."""
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    lines = "".join(f"{key}:{value}\n" for key, value in sorted(headers.items()))
    signed = "PUT" + "\n" * 12 + lines + f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    digest = hmac.new(base64.b64decode(SECRET_KEY), signed.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    request = urllib.request.Request(
        f"{endpoint}/{ACCOUNT}/{name}?restype=container", method="PUT", headers={**headers, "Content-Length": "0"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 201


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert server.poll() is None, f"azurite ended with {server.returncode}"
            assert time.monotonic() < deadline, "azurite does not answer"
            time.sleep(0.1)

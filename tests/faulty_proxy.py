"""A proxy before an HTTP server that does to chosen answers what networks and disks do to them.

Faults are a schedule: each is for requests of a kind, skips some of them, and happens a number of times. What no fault
is for passes through unchanged.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

Kind = Literal[
    "flip", "truncate", "shorten", "stall", "pause", "unavailable", "slow-down", "error", "missing", "reset", "lost"
]
"""flip: a bit in the middle of the body. truncate: half of the body, then the end of the connection. shorten: half of
the body, as if that were all. stall: no answer until the proxy ends. pause: the answer, after `Fault.seconds`.
unavailable: status 503. slow-down: 503 as S3 throttles. error: status 500. missing: status 404. reset: the connection
is reset. lost: the server does what it is asked, and the connection is reset before its answer."""

_STATUS = {
    "unavailable": (503, b"<Error><Code>ServiceUnavailable</Code></Error>"),
    "slow-down": (503, b"<Error><Code>SlowDown</Code></Error>"),
    "error": (500, b"<Error><Code>InternalError</Code></Error>"),
    "missing": (404, b"<Error><Code>NoSuchKey</Code></Error>"),
}

_HOP_BY_HOP = {"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"}


@dataclass
class Fault:
    """What happens to which requests.

    Attributes:
        kind: What happens.
        path: Part of the paths meant.
        method: HTTP method meant; empty for all.
        times: How often; None for always.
        skip: How many of the requests meant pass before.
        share: To how many of the requests meant it happens, by chance.
        seconds: Of a pause.
    """

    kind: Kind
    path: str = ""
    method: str = "GET"
    times: int | None = None
    skip: int = 0
    share: float = 1.0
    seconds: float = 0.0
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def takes(self, method: str, path: str) -> bool:
        """Whether it happens to this request; counts it."""
        if self.method not in ("", method) or self.path not in path or self.times == 0:
            return False
        if self.share < 1.0 and self.chance.random() >= self.share:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class FaultyProxy:
    """A running proxy.

    Attributes:
        url: Where it listens.
        faults: The schedule, which tests change as they like; the first that takes a request happens to it.
        requests: Method and path of every request so far.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        assert parts.hostname is not None
        assert parts.port is not None
        self.target = (parts.hostname, parts.port)
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.released = threading.Event()
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            def handle_request(self) -> None:
                proxy.forward(self)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def count(self, path: str, method: str = "GET") -> int:
        """How many requests there have been of a method, for paths that contain `path`."""
        return sum(method == found and path in name for found, name in self.requests)

    def forward(self, handler: _Handler) -> None:
        """Answers one request."""
        length = int(handler.headers.get("Content-Length", 0))
        body = handler.rfile.read(length)
        with self._lock:
            self.requests.append((handler.command, handler.path))
            fault = next((fault for fault in self.faults if fault.takes(handler.command, handler.path)), None)
        kind = None if fault is None else fault.kind
        if fault is not None and kind == "pause":
            self.released.wait(fault.seconds)
        if kind == "lost":
            self._ask(handler, body)
        if kind == "stall":
            self.released.wait()
            handler.close_connection = True
        elif kind in ("reset", "lost"):
            handler.reset()
        elif kind in _STATUS:
            handler.answer(*_STATUS[kind], {})
        else:
            handler.answer(*_damaged(kind, *self._ask(handler, body)), cut=kind == "truncate")

    def close(self) -> None:
        """Ends it, and lets go of what it has stalled."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _ask(self, handler: _Handler, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection(*self.target, timeout=30)
        try:
            connection.request(handler.command, handler.path, body, dict(handler.headers))
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
            if handler.command == "HEAD":
                headers["content-length"] = answer.headers.get("content-length", "0")
            return answer.status, answer.read(), headers
        finally:
            connection.close()


@contextlib.contextmanager
def faulty_proxy(target: str) -> Iterator[FaultyProxy]:
    """A proxy before the server at a URL."""
    proxy = FaultyProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error here: clients of a faulty store do."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_request(self) -> None:
        """Answers one request."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self.handle_request()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def answer(self, status: int, body: bytes, headers: Mapping[str, str], *, cut: bool = False) -> None:
        """Sends an answer; `cut` ends it in the middle of its body."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "content-length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def reset(self) -> None:
        """Ends the connection with a reset instead of a proper end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        # All that refers to the socket, or the server says goodbye first.
        self.rfile.close()
        self.connection.close()

    def log_message(self, *args: object) -> None:
        """Nothing: the proxy keeps a list of its own."""


def _damaged(kind: str | None, status: int, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
    if kind == "flip":
        middle = len(body) // 2
        body = body[:middle] + bytes([body[middle] ^ 0x40]) + body[middle + 1 :]
    elif kind == "shorten":
        body = body[: len(body) // 2]
        offset, total = re.findall("[0-9]+", headers["content-range"])[::2]
        headers = headers | {"content-range": f"bytes {offset}-{int(offset) + len(body) - 1}/{total}"}
    return status, body, headers

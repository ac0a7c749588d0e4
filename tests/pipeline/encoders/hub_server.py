"""A Hugging Face hub of one repository on this machine, as far as `model_info` and `snapshot_download` need it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(repository: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serves `folder` as `repository` at branch main; yields the address and a live list of the files asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
            headers: dict[str, str] = {}
            if path in (
                f"/api/models/{repository}",
                *(f"/api/models/{repository}/revision/{r}" for r in ("main", COMMIT)),
            ):
                siblings = [{"rfilename": file} for file in files]
                content = json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode()
            elif path.startswith(f"/api/models/{repository}/tree/"):
                content = json.dumps([self._entry(file) for file in files]).encode()
            elif path.removeprefix(f"/{repository}/resolve/{COMMIT}/") in files:
                file = path.removeprefix(f"/{repository}/resolve/{COMMIT}/")
                asked.append(file)
                content = (folder / file).read_bytes()
                headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def _entry(self, file: str) -> dict[str, object]:
            content = (folder / file).read_bytes()
            return {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

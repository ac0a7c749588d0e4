"""Files of one JSON object a line, each with its step: what a run has done, for people and tests to read.

A run that is killed has written lines of steps that its latest checkpoint does not have. The run that resumes does
these steps again, so it drops their lines first: a file never tells of a step twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.local_files import replace_local


class History:
    """Appends to one file; a line is on its way to the disk when `write` returns.

    Args:
        path: Its folder is made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends a line."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; none if there is no file. A last line that a kill cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def drop_lines_after(path: Path, step: int) -> None:
    """Removes the lines of later steps, atomically."""
    lines = [json.dumps(line) + "\n" for line in read_history(path) if line["step"] <= step]
    if path.exists():
        replace_local(path, "".join(lines).encode())

"""A folder for the process, in which targets write what is read from files."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path


@functools.cache
def _root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="encode-once-fuzz-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


def scratch_folder(name: str) -> Path:
    """A folder of this name, empty the first time."""
    folder = _root() / name
    folder.mkdir(exist_ok=True)
    return folder

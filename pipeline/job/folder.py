"""A private folder for one run's Ray session: short in name, readable by its owner alone, gone after use.

Ray's own default is one growing folder for all sessions of all users. Its sockets' names must stay under 108
characters, of which Ray uses about 70.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import ConfigError

_PREFIX = "encode-once-"
_MAX_CHARACTERS = 36
_LOCK = "driver.lock"


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Makes the folder, and removes it at the end.

    A driver that is killed cannot do that: so the folder holds a lock file that its driver keeps locked, and the kernel
    unlocks it when the driver is gone. Folders of gone drivers are removed first.

    Raises:
        ConfigError: There is no folder for temporary files, or no room in it.
    """
    parent = _parent()
    _remove_left_behind(parent)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    try:
        # Locked under another name first: a folder is never seen with its lock file there and free.
        with open(folder / "new", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(folder / "new", folder / _LOCK)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _parent() -> Path:
    try:
        usual = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        # Python has tried to write a few bytes into each.
        raise ConfigError(
            "no-temporary-folder",
            where="TMPDIR",
            expected="a folder for Ray's logs and sockets, with room in it",
            actual=str(error),
            remedy="make room in the temporary folder, or set TMPDIR to one with room",
        ) from error
    return usual if len(str(usual)) + len(_PREFIX) + 9 <= _MAX_CHARACTERS else Path("/tmp")


def _remove_left_behind(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # Another user's, or just removed by another driver.
            if folder.stat().st_uid != os.getuid():
                continue
            with open(folder / _LOCK) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)

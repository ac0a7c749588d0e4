"""The files of a cache: entries, temporary files of those being written, a lock, the number of bytes in use.

entries/<first two digits>/<name>   last modified when last used
writing/<unique>                    locked by their writers
lock
used-bytes
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from schemas.local_files import read_local

_SPARE_SHARE = 0.1
"""Part of the bound that is freed beyond what is needed, as each time costs a look at all entries."""


@dataclass(frozen=True)
class _Entry:
    used_at: int
    num_bytes: int
    path: str


class CacheFolder:
    """Operations on the files. All raise OSError where the disk does not do as told.

    Args:
        folder: Absolute.
    """

    def __init__(self, folder: Path) -> None:
        self._entries = folder / "entries"
        self._writing = folder / "writing"
        self._lock = folder / "lock"
        self._used_bytes = folder / "used-bytes"

    def entry(self, name: str) -> Path:
        """Where an entry is."""
        return self._entries / name[:2] / name

    def holds(self, name: str) -> bool:
        """Whether there is an entry of this name."""
        return self.entry(name).exists()

    def read(self, name: str) -> pa.Buffer | None:
        """An entry's bytes, and notes that it was used; None if there is none."""
        path = self.entry(name)
        try:
            data = read_local(path, 0, path.stat().st_size)
        except FileNotFoundError:
            return None
        # Another process may have removed it meanwhile, and a folder that only serves may be read-only.
        with contextlib.suppress(OSError):
            os.utime(path)
        return data

    def open_lock(self) -> int:
        """The file that whoever takes or makes room locks."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)

    def read_used_bytes(self) -> int | None:
        """Bytes in use, or more, as last noted; None if that is not known."""
        try:
            return int(self._used_bytes.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def write_used_bytes(self, num_bytes: int) -> None:
        """Notes the bytes in use."""
        self._used_bytes.write_text(str(num_bytes))

    def create_temporary(self, num_bytes: int) -> tuple[int, Path]:
        """A locked file of the full size, nothing of it written yet."""
        self._writing.mkdir(exist_ok=True)
        temporary = self._writing / uuid.uuid4().hex
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, num_bytes)
        except OSError:
            _remove(descriptor, temporary)
            raise
        return descriptor, temporary

    def publish(self, descriptor: int, temporary: Path, name: str, data: pa.Buffer) -> None:
        """Fills a temporary file and gives it its name; nothing is left of it if that fails."""
        try:
            written = 0
            view = memoryview(data)
            while written < data.size:
                written += os.pwrite(descriptor, view[written:], written)
            target = self.entry(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, target)
        except BaseException:
            _remove(descriptor, temporary)
            raise
        os.close(descriptor)

    def make_room(self, num_bytes: int, max_bytes: int) -> int:
        """Removes what killed processes left, then what was used longest ago, until there is room.

        Args:
            num_bytes: Room wanted.
            max_bytes: Bound on all files.

        Returns:
            Bytes in use afterwards.
        """
        # In this order: what gets its name in between counts twice, not never.
        used = self._remove_abandoned()
        entries = list(self._list_entries())
        used += sum(entry.num_bytes for entry in entries)
        if used + num_bytes <= max_bytes:
            return used
        entries.sort(key=lambda entry: entry.used_at)
        for entry in entries:
            if used + num_bytes <= max_bytes * (1 - _SPARE_SHARE):
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)
            used -= entry.num_bytes
        return used

    def _remove_abandoned(self) -> int:
        """Removes the temporary files of killed processes; returns the bytes of the others."""
        used = 0
        for found in _scan(self._writing):
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(found.path, os.O_RDWR)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(found.path)
                except BlockingIOError:
                    used += os.fstat(descriptor).st_size
                finally:
                    os.close(descriptor)
        return used

    def _list_entries(self) -> Iterator[_Entry]:
        for folder in _scan(self._entries):
            for found in _scan(Path(folder.path)):
                with contextlib.suppress(FileNotFoundError):
                    status = found.stat(follow_symlinks=False)
                    yield _Entry(status.st_mtime_ns, status.st_size, found.path)


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as found:
        yield from found


def _remove(descriptor: int, temporary: Path) -> None:
    os.close(descriptor)
    with contextlib.suppress(OSError):
        temporary.unlink()

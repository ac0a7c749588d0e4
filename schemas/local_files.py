"""Local files that appear whole and stay: written beside their name, fsynced, put in place, their folder fsynced.

They are read, not mapped: a mapped file that is cut short meanwhile kills its reader with SIGBUS, and what was checked
might no longer be what is used.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from schemas.errors import StorageError
from schemas.storage_errors import failed, is_without_room


def create_local(target: Path, chunks: Iterable[bytes | memoryview]) -> bool:
    """Writes a new file. The first writer wins.

    Returns:
        False, with nothing changed, if it exists already.

    Raises:
        StorageError: It could not be written; nothing is left behind.
    """
    if target.exists():
        return False
    temporary = _write_temporary(target, chunks)
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    fsync_folder(target.parent)
    return True


def replace_local(target: Path, data: bytes) -> None:
    """Writes a file, new or in place of an older one.

    Raises:
        StorageError: It could not be written; an older one is as it was.
    """
    temporary = _write_temporary(target, [data])
    os.replace(temporary, target)
    fsync_folder(target.parent)


def read_local(target: Path, offset: int, num_bytes: int) -> pa.Buffer:
    """The bytes of a range; fewer if the file ends before it does.

    Into Arrow's memory, which is used again: for what Python allocates, the system hands out new pages each time, and
    clearing them costs as much as the reading.

    Raises:
        OSError: It cannot be read, or is no regular file.
    """
    # A pipe would be waited for, and a device has no end.
    descriptor = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        _require_regular(status, target)
        # What is asked for may be what a stranger has declared.
        num_bytes = max(0, min(num_bytes, status.st_size - offset))
        buffer = pa.allocate_buffer(num_bytes)
        view = memoryview(buffer)
        filled = 0
        # One call reads all there is, but for network file systems, and for 2 GiB and more.
        while filled < num_bytes and (count := os.preadv(descriptor, [view[filled:]], offset + filled)):
            filled += count
    finally:
        os.close(descriptor)
    return buffer.slice(0, filled)


def require_regular(target: Path) -> None:
    """Refuses pipes and devices, without opening them.

    Raises:
        OSError: It is one; or there is no such file.
    """
    status = os.stat(target)
    if not stat.S_ISDIR(status.st_mode):  # which the store says itself is no object
        _require_regular(status, target)


def _require_regular(status: os.stat_result, target: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(target))


def _write_temporary(target: Path, chunks: Iterable[bytes | memoryview]) -> Path:
    """A fully written, fsynced file beside `target`; nothing is left behind if writing fails (a full disk, say)."""
    temporary = target.with_name(f"{target.name}.tmp-{uuid.uuid4().hex}")
    try:
        _make_folder(target.parent)
        with open(temporary, "xb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if is_without_room(error):
            raise failed(str(target), error) from error
        raise StorageError(
            "storage-write-failed",
            where=str(target),
            expected="the file to be written and flushed to disk",
            actual=f"{type(error).__name__}: {error}",
            remedy="free space or fix the permissions, then run the same command again: nothing was half-written",
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _make_folder(folder: Path) -> None:
    """`mkdir -p` that makes each new folder's entry durable too."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        fsync_folder(new.parent)


def fsync_folder(folder: Path) -> None:
    """Makes the folder's entries durable: what was created, renamed or removed in it stays so after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

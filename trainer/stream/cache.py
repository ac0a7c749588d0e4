"""A bounded folder of chunks on a local disk, shared by the processes of a machine.

Entries are named by content and appear whole, by a rename. Nothing is flushed to disk: what a power cut spoils, the
reader's checksum finds, and the dataset has it still. What is used longest ago goes first; an entry that another
process is reading stays readable until it closes it.

Room is taken before a byte is written: a temporary file of the full size stands for what is coming, so that the bound
holds for all processes together. Its writer holds a lock on it, which ends with the process, so a file that a killed
process has left behind is known at once.

The cache may only make a run faster. A disk that is full, broken or read-only is one warning, and the run goes on
without it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from trainer.stream.cache_folder import CacheFolder

_log = logging.getLogger(__name__)

_LOCK_SECONDS = 5.0
"""How long to wait for other processes that take or make room; then a chunk is not kept this time."""

_LOCK_POLL_SECONDS = 0.005

_PAUSE_SECONDS = 60.0
"""How long nothing is written after the disk has failed."""


class ChunkCache:
    """Chunks by name. Threads and processes may share one; each process makes its own object of the same folder.

    Args:
        folder: Made if it does not exist. Nothing else may be kept there.
        max_bytes: Bound on the bytes of its files.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self._folder = CacheFolder(Path(folder).expanduser().absolute())
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._counted = False
        self._warned = False
        self._paused_until = 0.0

    def locate(self, name: str) -> str:
        """The full name of an entry, for messages."""
        return str(self._folder.entry(name))

    def get(self, name: str) -> pa.Buffer | None:
        """An entry's bytes, which the caller must check; None if there is none."""
        try:
            return self._folder.read(name)
        except OSError as error:
            self._warn(error)
            return None

    def put(self, name: str, data: pa.Buffer) -> bool:
        """Keeps an entry, if there is room to be had.

        Returns:
            Whether it is there now.
        """
        if data.size > self._max_bytes or time.monotonic() < self._paused_until:
            return False
        try:
            if self._folder.holds(name):
                return True
            with self._locked() as locked:
                descriptor, temporary = self._reserve(data.size) if locked else (None, None)
            if descriptor is None or temporary is None:
                return False
            self._folder.publish(descriptor, temporary, name, data)
        except OSError as error:
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
            self._warn(error)
            return False
        return True

    def drop(self, name: str) -> None:
        """Removes an entry, a damaged one."""
        with contextlib.suppress(OSError):
            self._folder.entry(name).unlink()

    def _reserve(self, num_bytes: int) -> tuple[int, Path] | tuple[None, None]:
        """Makes room and takes it; the lock is held."""
        used = self._folder.read_used_bytes()
        # The first time anew: a machine that went down may have lost the number, and not the files.
        if not self._counted or used is None or used + num_bytes > self._max_bytes:
            used = self._folder.make_room(num_bytes, self._max_bytes)
            self._counted = True
            if used + num_bytes > self._max_bytes:
                return None, None
        # Before the file: a process that is killed in between leaves a number that is too large, and that is mended.
        self._folder.write_used_bytes(used + num_bytes)
        return self._folder.create_temporary(num_bytes)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        """Holds the folder's lock; yields False if others do not let go of it."""
        deadline = time.monotonic() + _LOCK_SECONDS
        if not self._lock.acquire(timeout=_LOCK_SECONDS):
            yield False
            return
        try:
            descriptor = self._folder.open_lock()
            try:
                yield _acquire(descriptor, deadline)
            finally:
                os.close(descriptor)
        finally:
            self._lock.release()

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("the cache is left out where it cannot be used, and the run goes on: %s", error)


def _acquire(descriptor: int, deadline: float) -> bool:
    """Locks a file; not by waiting in the kernel, as a process that has been stopped may hold it for ever."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOCK_POLL_SECONDS)
        else:
            return True

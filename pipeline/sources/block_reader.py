"""Forward reading of one tar on any store, in blocks, with bodies that nobody asked for skipped.

A local tar is read with `pread` in small windows: skipping an image costs nothing. An object store answers a request
in tens of milliseconds, so that there the tar is streamed in 8 MiB blocks, the next one already under way in a
thread, and only a gap larger than a block is worth a new request. In both cases the block begins small after a jump
and doubles while reading stays sequential; at most three blocks are in memory, whatever the tar's size.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.sources.inputs import InputTar
from schemas.errors import DamagedDataError, MissingObjectError, StorageError
from schemas.storage import Store

KIB = 1024
MIB = 1024**2


@dataclass(frozen=True)
class ReadPlan:
    """How a kind of store is best read."""

    first_bytes: int
    """Size of the first block after a jump."""
    most_bytes: int
    """Size up to which blocks double."""
    max_gap_bytes: int
    """A gap larger than this is jumped over, a smaller one read and thrown away."""
    reads_ahead: bool
    """Whether a full-sized next block is fetched in a thread meanwhile."""


LOCAL = ReadPlan(first_bytes=8 * KIB, most_bytes=1 * MIB, max_gap_bytes=0, reads_ahead=False)
REMOTE = ReadPlan(first_bytes=1 * MIB, most_bytes=8 * MIB, max_gap_bytes=8 * MIB, reads_ahead=True)


class BlockReader:
    """Reads ranges of one object; cheapest if each begins where the last one ended, or later.

    Args:
        fetch: `fetch(offset, num_bytes)` answers with exactly that many bytes, or raises.
        num_bytes: Size of the object.
        plan: How to read it.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], num_bytes: int, plan: ReadPlan) -> None:
        self.num_bytes = num_bytes
        self._fetch = fetch
        self._plan = plan
        self._window = plan.first_bytes
        self._start = 0
        self._block = b""
        self._ahead: Future[bytes] | None = None
        self._thread = ThreadPoolExecutor(1, "tar-read-ahead") if plan.reads_ahead else None

    def read(self, offset: int, num_bytes: int) -> bytes:
        """Exactly `num_bytes` bytes from `offset`, which must lie within the object."""
        begin = offset - self._start
        end = begin + num_bytes
        if begin < 0 or end > len(self._block):
            self._load(offset, num_bytes)
            begin, end = offset - self._start, offset - self._start + num_bytes
        return self._block[begin:end]

    def close(self) -> None:
        """Ends the thread that reads ahead."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def _load(self, offset: int, num_bytes: int) -> None:
        assert 0 <= offset <= offset + num_bytes <= self.num_bytes, "ranges are checked by the caller"
        end = self._start + len(self._block)
        if not self._start <= offset <= end + self._plan.max_gap_bytes:
            self._ahead = None
            self._window = self._plan.first_bytes
            self._start, self._block, end = offset, b"", offset
        while offset + num_bytes > end:
            kept = self._block[offset - self._start :] if offset < end else b""
            self._start = end - len(kept)
            self._block = kept + self._next_block(end)
            end = self._start + len(self._block)

    def _next_block(self, offset: int) -> bytes:
        size = min(self._window, self.num_bytes - offset)
        block = self._fetch(offset, size) if self._ahead is None else self._ahead.result()
        self._ahead = None
        self._window = min(2 * self._window, self._plan.most_bytes)
        after = offset + len(block)
        if self._thread is not None and self._window == self._plan.most_bytes and after < self.num_bytes:
            self._ahead = self._thread.submit(self._fetch, after, min(self._window, self.num_bytes - after))
        return block


@contextmanager
def open_blocks(store: Store, tar: InputTar) -> Iterator[BlockReader]:
    """A reader of `tar`, as large as it was when it was listed.

    Raises:
        MissingObjectError: It is gone.
        DamagedDataError: It is not as it was when it was listed (`input-changed`).
        StorageError: The store failed.
    """
    if store.local_root is None:
        reader = BlockReader(lambda offset, size: _fetch_remote(store, tar, offset, size), tar.num_bytes, REMOTE)
        try:
            yield reader
        finally:
            reader.close()
        return
    try:
        # A pipe would be waited for, for ever.
        descriptor = os.open(store.local_root / tar.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(store.locate(tar.path), error) from error
    try:
        yield BlockReader(lambda offset, size: _fetch_local(store, tar, descriptor, offset, size), tar.num_bytes, LOCAL)
    finally:
        os.close(descriptor)


def require_unchanged(store: Store, tar: InputTar) -> None:
    """Checks that the tar is still the one that was listed.

    Raises:
        DamagedDataError: Its size or its entity tag is another (`input-changed`).
    """
    now = store.head(tar.path)
    if now is None or (now.num_bytes, now.e_tag) != (tar.num_bytes, tar.e_tag):
        found = "nothing" if now is None else f"{now.num_bytes} bytes, entity tag {now.e_tag}"
        raise input_changed(store, tar, found)


def input_changed(store: Store, tar: InputTar, actual: str) -> DamagedDataError:
    """The error for a tar that was rewritten while it was being read."""
    return DamagedDataError(
        "input-changed",
        where=store.locate(tar.path),
        expected=f"{tar.num_bytes} bytes, entity tag {tar.e_tag}, as when the inputs were listed",
        actual=actual,
        remedy="let whatever writes the tar finish, then run the same command again",
    )


def _fetch_remote(store: Store, tar: InputTar, offset: int, num_bytes: int) -> bytes:
    try:
        return store.get_range(tar.path, offset, num_bytes)
    except DamagedDataError as error:
        raise input_changed(store, tar, error.actual) from error


def _fetch_local(store: Store, tar: InputTar, descriptor: int, offset: int, num_bytes: int) -> bytes:
    pieces = []
    missing = num_bytes
    while missing:
        try:
            piece = os.pread(descriptor, missing, offset + num_bytes - missing)
        except OSError as error:
            raise _unreadable(store.locate(tar.path), error) from error
        if not piece:
            raise input_changed(store, tar, f"the file ends at byte {offset + num_bytes - missing}")
        pieces.append(piece)
        missing -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _unreadable(where: str, error: OSError) -> StorageError:
    kind = MissingObjectError if isinstance(error, FileNotFoundError) else StorageError
    return kind(
        "input-unreadable",
        where=where,
        expected="a file that can be read",
        actual=f"{type(error).__name__}: {error.strerror}",
        remedy="check that the file is there, its permissions and the disk; then run the same command again",
    )

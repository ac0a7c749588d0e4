"""The tar a shard was made from, counted anew: rows in = rows out.

The count shares no code with the pipeline: names are read by the standard library's tarfile, keys by SPEC.md's rule.
"""

from __future__ import annotations

import re
import tarfile
import unicodedata
from collections.abc import Sequence
from typing import Any

from schemas.errors import EncodeOnceError
from schemas.ledger import LedgerRecord, record_path
from schemas.limits import MAX_KEY_BYTES
from schemas.storage import Store
from schemas.validator.codes import Code
from schemas.validator.findings import Findings
from schemas.validator.sized_file import SizedFile

_WINDOW_BYTES = 1024**2
_MAX_EXTENSION_BYTES = 1024**2
_MANY_DIGITS = re.compile(rb"[0-9]{256}")  # more than a file name can have
UNREADABLE = (tarfile.TarError, ValueError, LookupError, OverflowError, RecursionError, MemoryError)
_GNU_MAGIC = b"ustar  \0"


def check_damage(record: LedgerRecord, findings: Findings) -> None:
    """Reports a tar that could not be read whole when it was encoded."""
    if record.source.damage:
        first = record.source.damage[0]
        actual = f"{len(record.source.damage)} damages, the first: {first.code}: {first.reason}"
        path = record_path(record.group, record.shard)
        findings.add(Code.SOURCE_DAMAGED, path, expected=f"a whole {record.source.url}", actual=actual)


def check_source(record: LedgerRecord, keys: Sequence[str], findings: Findings) -> bool:
    """Compares a shard's keys with those of its tar, if that is reachable, whole and unchanged.

    Args:
        record: The shard's record for one of its groups.
        keys: The shard's keys in row order.
        findings: Where to.

    Returns:
        Whether the tar was counted.
    """
    path, source = record_path(record.group, record.shard), record.source
    if source.damage or (source.url and not source.url.endswith(".tar")):  # prompts come from a text file
        return False
    folder, slash, name = source.url.rpartition("/")
    try:
        store = Store(folder or slash or ".")
        info = store.head(name)
    except EncodeOnceError as error:
        findings.add(Code.SOURCE_UNREACHABLE, path, expected=source.url, actual=error.actual)
        return False
    if info is None:
        findings.add(Code.SOURCE_UNREACHABLE, path, expected=source.url, actual="not found")
        return False
    if (info.num_bytes, info.e_tag) != (source.num_bytes, source.e_tag):
        expected = f"{source.url} of {source.num_bytes} bytes, ETag {source.e_tag}"
        findings.add(Code.SOURCE_CHANGED, path, expected=expected, actual=f"{info.num_bytes} bytes, ETag {info.e_tag}")
        return False
    with findings.guard(path):
        try:
            found = tar_keys(store, name, info.num_bytes)
        except UNREADABLE as error:
            actual = f"tarfile cannot read it: {type(error).__name__}: {str(error)[:200]}"
            findings.add(Code.SOURCE_DAMAGED, path, expected=f"a whole {source.url}", actual=actual)
            return False
        _compare(source.url, found, keys, path, findings)
        return True
    return False


def _compare(url: str, expected: Sequence[str], actual: Sequence[str], path: str, findings: Findings) -> None:
    if expected == actual:
        return
    shorter = min(len(expected), len(actual))
    row = next((i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b), shorter)
    found = [
        f"{len(keys)} keys, number {row} is {repr(keys[row]) if row < len(keys) else 'absent'}"
        for keys in (expected, actual)
    ]
    findings.add(Code.SOURCE_ROWS, path, row=row, expected=f"as in {url}: {found[0]}", actual=found[1])


def tar_keys(store: Store, path: str, num_bytes: int) -> list[str]:
    """The keys of a tar in the order of their first appearance. Reads headers, not contents.

    Raises:
        StorageError: The tar cannot be read.
        tarfile.TarError: It is no tar.
    """
    keys: dict[str, None] = {}
    file = _RemoteFile(store, path, num_bytes)
    # Zeros end one archive of those that may stand in a file one after the other.
    options: dict[str, Any] = {"ignore_zeros": True, "tarinfo": _TarInfo, "errors": "surrogateescape"}
    with tarfile.open(fileobj=file, mode="r:", **options) as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every member it has seen
            if member.isfile():
                key = member_key(member.name)
                if key is not None:
                    keys[key] = None
    return list(keys)


class _TarInfo(tarfile.TarInfo):
    """A header, read as tarfile reads it, but for two things.

    In old GNU tars tarfile takes times for the beginning of the name. And it believes what a header declares: sizes
    below zero lead backwards, for ever (CVE-2025-8194, in Python before 3.11.14 and 3.12.12), extended headers are read
    whole, and long runs of digits in them take quadratic time (CVE-2024-6232, before 3.11.10 and 3.12.6).
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _TarInfo:
        info = super().frombuf(buf, encoding, errors)
        if bytes(buf[257:265]) == _GNU_MAGIC:
            info.name = bytes(buf[:100]).split(b"\0", 1)[0].decode(encoding, errors)
        return info

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.ReadError(f"a size of {count} bytes")
        blocks: int = super()._block(count)  # type: ignore[misc]
        return blocks

    def _proc_pax(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        self._require_sane_extension(archive)
        found: tarfile.TarInfo = super()._proc_pax(archive)  # type: ignore[misc]
        self._block(found.size)
        return found

    def _proc_gnulong(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        self._require_sane_extension(archive)
        found: tarfile.TarInfo = super()._proc_gnulong(archive)  # type: ignore[misc]
        return found

    def _require_sane_extension(self, archive: tarfile.TarFile) -> None:
        file = archive.fileobj
        assert file is not None
        if self.size > _MAX_EXTENSION_BYTES:
            raise tarfile.ReadError(f"an extended header of {self.size} bytes")
        position = file.tell()
        if _MANY_DIGITS.search(file.read(self._block(self.size))):
            raise tarfile.ReadError("an extended header with very many digits in a row")
        file.seek(position)


class _RemoteFile(SizedFile):
    """A file read in windows of `_WINDOW_BYTES`, so that neighbouring headers need no request of their own."""

    def __init__(self, store: Store, path: str, num_bytes: int) -> None:
        super().__init__(num_bytes)
        self._store = store
        self._path = path
        self._window = b""
        self._window_start = 0

    def range(self, start: int, stop: int) -> bytes:
        if not self._window_start <= start <= stop <= self._window_start + len(self._window):
            length = min(max(_WINDOW_BYTES, stop - start), self._num_bytes - start)
            self._window = self._store.get_range(self._path, start, length)
            self._window_start = start
        return self._window[start - self._window_start : stop - self._window_start]


def member_key(name: str) -> str | None:
    """The key of a member by SPEC.md's rule; None for a name that cannot be part of a sample."""
    while name.startswith("./"):
        name = name[2:]
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    key = folder + slash + stem
    segments = name.split("/")
    if not stem or not extension or any(segment in ("", ".", "..") for segment in segments):
        return None
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return None  # control characters; bytes that are not UTF-8 arrive as surrogates
    return key if len(key.encode()) <= MAX_KEY_BYTES else None

"""The tar a shard was made from, counted anew: rows in = rows out.

The count shares no code with the pipeline: names are read by the standard library's tarfile, keys by SPEC.md's rule.
"""

from __future__ import annotations

import tarfile
import unicodedata
from collections.abc import Sequence
from typing import Any

from schemas.errors import EncodeOnceError
from schemas.ledger import LedgerRecord, record_path
from schemas.storage import Store
from schemas.validator.codes import Code
from schemas.validator.findings import Findings
from schemas.validator.sized_file import SizedFile

_WINDOW_BYTES = 1024**2
_MAX_KEY_BYTES = 4096
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
        _compare(source.url, tar_keys(store, name, info.num_bytes), keys, path, findings)
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
    """Reads the headers of old GNU tars, where tarfile takes times for the beginning of the name."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _TarInfo:
        info = super().frombuf(buf, encoding, errors)
        if bytes(buf[257:265]) == _GNU_MAGIC:
            info.name = bytes(buf[:100]).split(b"\0", 1)[0].decode(encoding, errors)
        return info


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
    return key if len(key.encode()) <= _MAX_KEY_BYTES else None

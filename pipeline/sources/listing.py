"""Listing of input folders that looks at no more than a pattern needs.

A bucket may hold a thousand million objects beside the tars: wildcards are resolved folder by folder, and only `**`
and whole folders list everything below. Local folders are read with the system's own calls, because obstore gives up
a whole listing for a single file whose name is not UTF-8, tar or not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import obstore
from obstore.exceptions import BaseError

from pipeline.sources.patterns import has_wildcard, match_segment, match_segments
from schemas.errors import ConfigError, StorageError
from schemas.resend import resend, resume
from schemas.storage import ObjectInfo, Store

_UNFINISHED = frozenset(("_tmp", "_temporary"))


def below(store: Store, folder: str) -> Iterator[ObjectInfo]:
    """Every object below `folder` (empty for the root), except hidden ones and those in folders of unfinished work."""
    if store.local_root is not None:
        yield from _walk_local(store, folder, ())
        return
    with _explained(store, folder):
        for info in resume(partial(_pages, store, folder), lambda info: info.path):
            relative = info.path.removeprefix(f"{folder}/") if folder else info.path
            if not any(map(_is_left_out, relative.split("/"))):
                yield info


def _pages(store: Store, folder: str, after: str | None) -> Iterator[ObjectInfo]:
    for batch in obstore.list(store.backend, folder or None, offset=after, chunk_size=1000):
        for meta in batch:
            yield ObjectInfo(meta["path"], meta["size"], meta["e_tag"], meta["last_modified"])


def matching(store: Store, pattern: Sequence[str], folder: str = "") -> Iterator[ObjectInfo]:
    """The objects below `folder` whose paths match the pattern's segments."""
    segment, rest = pattern[0], pattern[1:]
    if segment == "**":
        depth = len(folder.split("/")) if folder else 0
        for info in below(store, folder):
            if match_segments(info.path.split("/")[depth:], pattern):
                yield info
    elif rest and not has_wildcard(segment):
        yield from matching(store, rest, _join(folder, segment))
    elif rest:
        folders, _ = _children(store, folder)
        for name in folders:
            if match_segment(name, segment) and name not in _UNFINISHED:
                yield from matching(store, rest, _join(folder, name))
    else:
        yield from (info for info in _children(store, folder)[1] if match_segment(_base(info.path), segment))


def _children(store: Store, folder: str) -> tuple[list[str], list[ObjectInfo]]:
    """The names of the folders in `folder`, and its objects."""
    if store.local_root is not None:
        return _local_children(store, folder)
    with _explained(store, folder):
        found = resend(partial(obstore.list_with_delimiter, store.backend, folder or None))
    objects = [
        ObjectInfo(meta["path"], meta["size"], meta["e_tag"], meta["last_modified"]) for meta in found["objects"]
    ]
    return [_base(prefix) for prefix in found["common_prefixes"]], objects


def _local_children(store: Store, folder: str) -> tuple[list[str], list[ObjectInfo]]:
    assert store.local_root is not None
    folders, objects = [], []
    try:
        with os.scandir(store.local_root / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file() and (info := _local_info(store, _join(folder, entry.name))):
                    objects.append(info)
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except OSError as error:
        raise _failed(store, folder, f"{type(error).__name__}: {error.strerror}") from error
    return folders, objects


def _local_info(store: Store, path: str) -> ObjectInfo | None:
    """What the store says of a tar; only its name for other files, which nobody reads."""
    if not path.endswith(".tar"):
        return None
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise _unreadable_name(store, path) from error
    if not path.isprintable() and any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise _unreadable_name(store, path)
    return store.head(path)


def _walk_local(store: Store, folder: str, parents: tuple[tuple[int, int], ...]) -> Iterator[ObjectInfo]:
    assert store.local_root is not None
    path = Path(store.local_root / folder)
    status = path.stat() if path.is_dir() else None
    # A link to a folder above would be walked for ever.
    if status is None or (status.st_dev, status.st_ino) in parents:
        return
    folders, objects = _local_children(store, folder)
    yield from (info for info in objects if not _is_left_out(_base(info.path)))
    for name in folders:
        if not _is_left_out(name):
            yield from _walk_local(store, _join(folder, name), (*parents, (status.st_dev, status.st_ino)))


def _is_left_out(segment: str) -> bool:
    return segment.startswith(".") or segment in _UNFINISHED


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _base(path: str) -> str:
    return path.rpartition("/")[2]


@contextlib.contextmanager
def _explained(store: Store, folder: str) -> Iterator[None]:
    try:
        yield
    except BaseError as error:
        summary = str(error).split("\n\n", 1)[0].replace("\n", " ")[:500]
        if "path segment" in summary or "invalid path" in summary:
            raise _unreadable_name(store, folder, summary) from error
        raise _failed(store, folder, summary) from error


def _failed(store: Store, folder: str, actual: str) -> StorageError:
    return StorageError(
        "storage-failed",
        where=store.locate(folder),
        expected="the store to list the folder",
        actual=actual,
        remedy="check the store's health, the credentials and their right to list; then run the same command again",
    )


def _unreadable_name(
    store: Store, path: str, actual: str = "a name with control characters or not UTF-8"
) -> ConfigError:
    return ConfigError(
        "input-name-unsafe",
        where=ascii(store.locate(path)),
        expected="object names of printable UTF-8 without empty segments",
        actual=actual,
        remedy="rename the object, or name the tars so that it is not listed (a folder beside it, a brace pattern)",
    )

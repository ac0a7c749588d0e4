"""Which tars an input URL stands for, and what each one's shard is called.

An input is a folder or prefix (all `*.tar` below it, at any depth), one tar, or a pattern (`patterns.py`), local or
on any store. The **input root** is the folder, or the last folder before the first pattern character; a shard is
named by its tar's path below the root without `.tar`, so that adding inputs renames nothing.

Left out of folders and wildcards: names that do not end in `.tar`; whatever is hidden (a segment that begins with a
dot); and the folders `_tmp` and `_temporary`, where img2dataset and Spark keep unfinished work. What is spelled out
is never left out, and must exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.sources.listing import below, matching
from pipeline.sources.member_names import has_control_characters
from pipeline.sources.patterns import expand_braces, has_pattern, has_wildcard
from schemas.errors import ConfigError
from schemas.limits import MAX_SHARD_BYTES, MAX_SHARD_SEGMENT_BYTES
from schemas.storage import ObjectInfo, Store

_SUFFIX = ".tar"
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/]*")
_NUM_THREADS = 16
_SHOWN = 10


@dataclass(frozen=True)
class InputTar:
    """One tar to encode."""

    shard: str
    """Its name in the dataset: the path below the input root without `.tar`."""
    path: str
    """Relative to the store's root."""
    num_bytes: int
    e_tag: str | None
    """Changes when the content changes; None where a store has none."""


@dataclass(frozen=True)
class Inputs:
    """All tars of an input URL."""

    store: Store
    """Rooted at the input root."""
    tars: tuple[InputTar, ...]
    """Sorted by shard."""


def list_inputs(input_url: str) -> Inputs:
    """Finds the tars that `input_url` stands for.

    Raises:
        ConfigError: There are none (`input-not-found`), some that are spelled out do not exist (`input-missing`), a
            pattern is malformed (`input-pattern-invalid`), or a name cannot be a shard's (`input-name-unsafe`).
        StorageError: The store failed.
    """
    root, pattern = _split_root(input_url)
    store = Store(root)
    found = list(below(store, "")) if pattern is None else _expand(store, input_url, pattern)
    tars = [info for info in found if info.path.endswith(_SUFFIX)]
    if not tars:
        raise _nothing_found(input_url, found)
    named = {info.path: _input_tar(store, info) for info in tars}
    return Inputs(store, tuple(sorted(named.values(), key=lambda tar: tar.shard)))


def _split_root(url: str) -> tuple[str, str | None]:
    """The input root, and the pattern or name below it; None for a whole folder."""
    scheme = _SCHEME.match(url)
    is_local = scheme is None or url.startswith("file://")
    if is_local:
        path = Path(url.removeprefix("file://")).expanduser()
        if path.is_dir():
            return url, None
        if path.is_file():
            return str(path.parent), path.name
    head = "" if scheme is None else scheme.group()
    if has_pattern(head):
        raise _invalid_bucket(url)
    segments = url[len(head) :].split("/")
    first = next((number for number, segment in enumerate(segments) if has_pattern(segment)), None)
    if first is None:
        if is_local:
            raise _nothing_found(url, [])
        if not url.endswith(_SUFFIX):
            return url, None
        first = len(segments) - 1
    root = head + "/".join(segments[:first])
    if is_local and not root:
        root = "/" if url.startswith("/") else "."
    return root, "/".join(segments[first:])


def _expand(store: Store, url: str, pattern: str) -> list[ObjectInfo]:
    """The objects a pattern below the root stands for; all that is spelled out must be there."""
    # A local file may be called what looks like a pattern.
    if store.local_root is not None and (store.local_root / pattern).is_file():
        return list(_look_up(store, [pattern]).values())
    names = list(dict.fromkeys(expand_braces(pattern)))
    literal = [name for name in names if not has_wildcard(name)]
    found = _look_up(store, literal)
    missing = [name for name in literal if name not in found]
    objects = list(found.values())
    for name in names:
        if has_wildcard(name):
            matches = list(matching(store, name.split("/")))
            objects += matches
            if not matches and len(names) > 1:
                missing.append(name)
    if missing and (len(names) > 1 or has_pattern(url)):
        raise _missing(store, url, missing)
    return objects


def _look_up(store: Store, paths: list[str]) -> dict[str, ObjectInfo]:
    for path in paths:
        _require_safe(store.locate(path), path)
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        return {info.path: info for info in threads.map(store.head, paths) if info is not None}


def _input_tar(store: Store, info: ObjectInfo) -> InputTar:
    shard = info.path.removesuffix(_SUFFIX)
    _require_safe(store.locate(info.path), shard)
    return InputTar(shard, info.path, info.num_bytes, info.e_tag)


def _require_safe(where: str, shard: str) -> None:
    """A shard's name becomes part of object names, and of file names where the dataset is a folder."""
    segments = shard.split("/")
    try:
        num_bytes = len(shard.encode())
    except UnicodeEncodeError as error:
        raise _unsafe(where, "a name that is not UTF-8") from error
    if any(segment in ("", ".", "..") for segment in segments):
        raise _unsafe(where, "an empty segment, or one that is . or ..")
    if has_control_characters(shard):
        raise _unsafe(where, "control characters")
    if num_bytes > MAX_SHARD_BYTES or max(len(segment.encode()) for segment in segments) > MAX_SHARD_SEGMENT_BYTES:
        raise _unsafe(where, f"{num_bytes} bytes")


def _nothing_found(url: str, found: Iterable[ObjectInfo]) -> ConfigError:
    others = [info.path for info in found][:3]
    return ConfigError(
        "input-not-found",
        where=url,
        expected="a folder or prefix with .tar files below it, one .tar file, or a pattern that matches some",
        actual=f"no .tar, but {', '.join(map(repr, others))}" if others else "no .tar there",
        remedy="check the URL, and that the credentials may list it; compressed tars must be decompressed first",
    )


def _missing(store: Store, url: str, missing: list[str]) -> ConfigError:
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    return ConfigError(
        "input-missing",
        where=url,
        expected="every tar that the pattern spells out to exist",
        actual=f"{len(missing)} missing below {store.url}: {', '.join(missing[:_SHOWN])}{more}",
        remedy="restore them, or use a pattern that leaves them out (a wildcard takes what is there)",
    )


def _unsafe(where: str, actual: str) -> ConfigError:
    return ConfigError(
        "input-name-unsafe",
        where=ascii(where),
        expected=f"a path of printable UTF-8, at most {MAX_SHARD_BYTES} bytes, {MAX_SHARD_SEGMENT_BYTES} a segment",
        actual=actual,
        remedy="rename the tar: its path below the input root becomes the name of its shard",
    )


def _invalid_bucket(url: str) -> ConfigError:
    return ConfigError(
        "input-pattern-invalid",
        where=url,
        expected="a bucket's name without pattern",
        actual="a pattern in it",
        remedy="run one job per bucket",
    )

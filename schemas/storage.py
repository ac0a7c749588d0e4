"""One small door to folders and buckets: everything encode-once reads or writes goes through `Store`.

obstore gives local files, S3, Google Cloud Storage and Azure one API, atomic conditional puts and ranged reads. Two
things are added here. Short reads are errors (a local ranged read past the end answers with fewer bytes and no
complaint). And local creates are durable: obstore's local store does not fsync, so a power cut could leave a commit
record of zero bytes; here a file is written beside its name, fsynced, linked into place exclusively, and its folder
fsynced.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url

from schemas.errors import ConfigError, EncodeOnceError, MissingObjectError
from schemas.limits import MAX_DOCUMENT_BYTES
from schemas.local_files import create_local, read_local, replace_local, require_regular
from schemas.object_paths import require_inside
from schemas.resend import RETRY, resend, resume
from schemas.storage_credentials import credential_options
from schemas.storage_errors import bucket_missing, failed, first_line, missing, too_large, too_short
from schemas.storage_urls import allow_http, local_root, require_ordered

_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "FilesystemNotFound")
"""Of S3's interface, which Google's store has too, and of Azure's two."""
_CLIENT: Any = {"timeout": timedelta(minutes=5), "connect_timeout": timedelta(seconds=15)}

TEMPORARY_SUFFIX = re.compile(r"\.tmp-[0-9a-f]{32}$")
"""Names of files a killed writer can leave in a local folder; never a committed object."""


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing says of one object."""

    path: str
    """Relative to the store's root, `/` separated."""
    num_bytes: int
    e_tag: str | None
    """Changes when the content changes; None where a store has none."""
    last_modified: datetime


class Store:
    """A folder or bucket prefix. Paths are relative to it, `/` separated, never absolute.

    Args:
        url: A local path, or `file://`, `s3://`, `gs://`, `az://`, `abfs://` with bucket and prefix. Credentials come
            from the environment or the usual profile and instance chains, never from the URL.

    Raises:
        ConfigError: The URL's scheme is unknown, its configuration is incomplete, or the store lists in no order.
    """

    def __init__(self, url: str) -> None:
        require_ordered(url)
        self._backend: Any
        try:
            self.local_root = local_root(url)
            # Absolute, as a worker process may have another current folder.
            self.url = (url if self.local_root is None else str(self.local_root)).rstrip("/") or "/"
            if self.local_root is not None:
                # The folder is made by the first write: opening a dataset that is not there must not create it.
                self._backend = LocalStore(self.local_root) if self.local_root.is_dir() else None
            else:
                options = credential_options(url)
                self._backend = from_url(url, client_options=_client_options(), retry_config=RETRY, **options)
        except (BaseError, ValueError) as error:
            raise ConfigError(
                "storage-url-invalid",
                where=url,
                expected="a local folder or an s3://, gs://, az:// or abfs:// URL with bucket and prefix",
                actual=first_line(error),
                remedy="check the URL, and that region and credentials are in the environment or the usual profile",
            ) from error

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.url,)

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def locate(self, path: str) -> str:
        """The full name of an object, for messages."""
        return f"{self.url}/{path}"

    @property
    def backend(self) -> Any:
        """The obstore store, for calls that this class has no use for."""
        if self._backend is None:
            assert self.local_root is not None
            self._backend = LocalStore(self.local_root, mkdir=True)
        return self._backend

    def get(self, path: str, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> bytes:
        """The whole object.

        Raises:
            DamagedDataError: It has more than `max_bytes` bytes; nothing of it is read then.
            MissingObjectError: It does not exist.
            StorageError: The store failed after all retries.
        """
        with self._named(path):
            if self.local_root is None:
                return resend(partial(self._get, self._existing(path), path, max_bytes))
            self._require_at_most(path, self._file(path).stat().st_size, max_bytes)
            data = read_local(self._file(path), 0, max_bytes + 1)
            # It may have been replaced meanwhile.
            self._require_at_most(path, data.size, max_bytes)
            content: bytes = data.to_pybytes()
            return content

    def get_range(self, path: str, offset: int, num_bytes: int) -> bytes:
        """Exactly `num_bytes` bytes from `offset`, in one request.

        Raises:
            DamagedDataError: The object ends before the range does.
            MissingObjectError, StorageError: As `get`.
        """
        data: bytes = self.get_buffer(path, offset, num_bytes).to_pybytes()
        return data

    def get_buffer(self, path: str, offset: int, num_bytes: int) -> pa.Buffer:
        """As `get_range`, without a copy."""
        if num_bytes == 0:
            return pa.py_buffer(b"")
        with self._named(path):
            backend = self._existing(path)
            if self.local_root is not None:
                # Half the processor time that obstore takes, or less.
                data = read_local(self._file(path), offset, num_bytes)
            else:
                data = pa.py_buffer(resend(partial(obstore.get_range, backend, path, start=offset, length=num_bytes)))
        if data.size != num_bytes:
            raise too_short(self.locate(path), offset, num_bytes, data.size)
        return data

    def get_ranges(self, path: str, offsets: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """Several ranges of one object, neighbouring ones coalesced into one request by obstore.

        Raises:
            DamagedDataError, MissingObjectError, StorageError: As `get_range`.
        """
        if not offsets:
            return []
        wanted = [(offset, length) for offset, length in zip(offsets, lengths, strict=True) if length]
        starts, sizes = [offset for offset, _ in wanted], [length for _, length in wanted]
        with self._named(path):
            backend = self._existing(path)
            found = resend(partial(obstore.get_ranges, backend, path, starts=starts, lengths=sizes)) if wanted else []
        for data, (offset, length) in zip(found, wanted, strict=True):
            if len(data) != length:
                raise too_short(self.locate(path), offset, length, len(data))
        full = iter(found)
        return [bytes(next(full)) if length else b"" for length in lengths]

    def head(self, path: str) -> ObjectInfo | None:
        """Size and age of an object, or None if it does not exist."""
        if self._backend is None and not self._appeared():
            return None
        try:
            with self._named(path):
                if self.local_root is not None:
                    # obstore opens what it asks about, and waits for ever for a pipe.
                    require_regular(self._file(path))
                return _info(resend(partial(obstore.head, self.backend, path)))
        except MissingObjectError:
            return None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object below `prefix` (a folder, not a name's beginning), in no particular order."""
        if self._backend is None and not self._appeared():
            return
        with self._named(prefix):
            if self.local_root is not None:
                yield from self._pages(prefix, None)
            else:
                yield from resume(partial(self._pages, prefix), lambda info: info.path)

    def create(self, path: str, data: bytes) -> bool:
        """Writes a new object durably, in a single conditional put. The first writer wins.

        Returns:
            False, with nothing changed, if the object already exists.
        """
        if self.local_root is not None:
            return create_local(self._file(path), [data])
        sent = 0

        def put() -> None:
            nonlocal sent
            sent += 1
            obstore.put(self.backend, path, data, mode="create", use_multipart=False)

        try:
            with self._named(path):
                resend(put)
        except AlreadyExistsError:
            # The one there may be that of which the answer was lost. It is read only if it can be: sizes are cheap.
            found = self.head(path) if sent > 1 else None
            if found is None or found.num_bytes != len(data):
                return False
            return self.get(path, max_bytes=len(data)) == data
        return True

    def create_content_addressed(self, path: str, chunks: Iterable[bytes | memoryview], num_bytes: int) -> bool:
        """Writes an object whose name is derived from its content, so that who wins a race does not matter.

        Large objects go up in parts, which object stores cannot make conditional; an existing object of the right size
        is left as it is.

        Returns:
            False if it was there already.
        """
        if self.local_root is not None:
            return create_local(self._file(path), chunks)
        found = self.head(path)
        if found is not None and found.num_bytes == num_bytes:
            return False
        pieces = list(chunks)

        def put() -> None:
            try:
                obstore.put(self.backend, path, iter(pieces), chunk_size=16 * 1024**2, max_concurrency=4)
            except (BaseError, FileNotFoundError):
                # The end of an upload of which the answer was lost is asked for again by obstore, and refused: there is
                # no such upload any more, as it has become the object.
                info = self.head(path)
                if info is None or info.num_bytes != num_bytes:
                    raise

        with self._named(path):
            resend(put)
        return True

    def replace(self, path: str, data: bytes) -> None:
        """Writes an object atomically, whether or not it exists. Only for what can be made again (index, heartbeat)."""
        if self.local_root is not None:
            replace_local(self._file(path), data)
            return
        with self._named(path):
            resend(partial(obstore.put, self.backend, path, data, use_multipart=False))

    def delete(self, paths: Sequence[str]) -> None:
        """Removes objects; one that is already gone is no error."""
        if self._backend is None and not self._appeared():
            return
        for path in paths:
            with contextlib.suppress(MissingObjectError), self._named(path):
                resend(partial(obstore.delete, self.backend, path))

    def _get(self, backend: Any, path: str, max_bytes: int) -> bytes:
        found = obstore.get(backend, path)
        self._require_at_most(path, found.meta["size"], max_bytes)
        return bytes(found.bytes())

    def _pages(self, prefix: str, after: str | None) -> Iterator[ObjectInfo]:
        for batch in obstore.list(self.backend, prefix or None, offset=after, chunk_size=1000):
            yield from map(_info, batch)

    def _require_at_most(self, path: str, num_bytes: int, max_bytes: int) -> None:
        if num_bytes > max_bytes:
            raise too_large(self.locate(path), max_bytes, num_bytes)

    def _file(self, path: str) -> Path:
        """Where an object of a local folder is."""
        assert self.local_root is not None
        require_inside(path, where=self.url)
        return self.local_root / path

    def _appeared(self) -> bool:
        return self.local_root is not None and self.local_root.is_dir()

    def _existing(self, path: str) -> Any:
        if self._backend is None and not self._appeared():
            raise missing(self.locate(path))
        return self.backend

    @contextlib.contextmanager
    def _named(self, path: str) -> Iterator[None]:
        """Gives a backend's error the object's name and a remedy; a conflict passes through."""
        if path:
            require_inside(path, where=self.url)
        try:
            yield
        except AlreadyExistsError:
            raise
        except (FileNotFoundError, NotADirectoryError) as error:
            # An answer to HEAD has no body to tell a bucket from an object by; whatever is done next has.
            raise (bucket_missing if any(code in str(error) for code in _NO_BUCKET) else missing)(
                self.locate(path)
            ) from error
        except EncodeOnceError:
            raise
        except (BaseError, OSError, ValueError, OverflowError, MemoryError) as error:
            raise failed(self.locate(path), error) from error


def _client_options() -> Any:
    return {**_CLIENT, "allow_http": allow_http()}


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], meta.get("e_tag"), meta["last_modified"])

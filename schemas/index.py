"""`index.arrow`: the ledger in one object, so that a reader opens a dataset of 100,000 shards with one read.

It is made from the ledger whenever a run ends and can be made again at any time; it is a snapshot, the ledger is the
truth. A digest of the whole file stands in its own schema metadata, computed with a placeholder in its place.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from pyarrow import ipc

from schemas.container_arrow import UNREADABLE
from schemas.documents import unseal
from schemas.errors import DamagedDataError
from schemas.ledger import LEDGER_FOLDER, LedgerRecord, list_committed, load_record, record_path, valid_record
from schemas.limits import MAX_INDEX_RATIO
from schemas.record_batch_sizes import require_small
from schemas.storage import Store

INDEX_PATH = "index.arrow"

IDENTITY_KEY = b"encode_once.identity_sha256"
LATENTS_IDENTITY_KEY = b"encode_once.latents_identity_sha256"
_DIGEST_KEY = b"encode_once.sha256"
_NO_DIGEST = b"sha256 of this file with this text in the digest's place".ljust(64, b".")
_ROWS_PER_BATCH = 1024
_LEDGER_READERS = 32


def index_schema(identity_sha256: str | None, latents_identity_sha256: str | None = None) -> pa.Schema:
    """Columns of the index; `record` is the ledger record's bytes, checksum and all.

    Args:
        identity_sha256: Of `manifest.json`; None if the dataset has no captions.
        latents_identity_sha256: Of `manifest.latents.json`; None if it has no latents.
    """
    identities = {IDENTITY_KEY: identity_sha256, LATENTS_IDENTITY_KEY: latents_identity_sha256}
    stated = {name: value.encode() for name, value in identities.items() if value is not None}
    return pa.schema(
        [
            pa.field("group", pa.string(), nullable=False),
            pa.field("shard", pa.string(), nullable=False),
            pa.field("num_rows", pa.int64(), nullable=False),
            pa.field("record", pa.large_binary(), nullable=False),
        ],
        metadata={_DIGEST_KEY: _NO_DIGEST, **stated},
    )


def write_options() -> ipc.IpcWriteOptions:
    """ZSTD level 1: records are text, half of it digests."""
    return ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1))


class IndexWriter:
    """Makes the bytes of `index.arrow` record by record: what it keeps of each is compressed.

    Args:
        identity_sha256: As for `index_schema`.
        latents_identity_sha256: As for `index_schema`.
        where: Names the ledger, for errors.
    """

    def __init__(self, identity_sha256: str | None, latents_identity_sha256: str | None, *, where: str) -> None:
        self._schema = index_schema(identity_sha256, latents_identity_sha256)
        self._where = where
        self._sink = io.BytesIO()
        self._writer = ipc.new_file(self._sink, self._schema, options=write_options())
        self._rows: list[tuple[str, str, int, bytes]] = []

    def add(self, group: str, shard: str, data: bytes) -> dict[str, Any]:
        """Takes in the next record, in the order of (group, shard).

        Args:
            group: Column group.
            shard: Shard.
            data: The record's stored bytes.

        Returns:
            Its fields.

        Raises:
            DamagedDataError, ContractError: It is not what was written.
        """
        where = f"{self._where}/{record_path(group, shard)}"
        body = unseal(data, where=where)
        with valid_record(where):
            self._rows.append((group, shard, body["num_rows"], data))
        if len(self._rows) == _ROWS_PER_BATCH:
            self._write()
        return body

    def finish(self) -> bytes:
        """The bytes of `index.arrow`."""
        if self._rows:
            self._write()
        self._writer.close()
        data = self._sink.getvalue()
        return data.replace(_NO_DIGEST, hashlib.sha256(data).hexdigest().encode())

    def _write(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, self._schema, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._rows.clear()


def dump_index(
    records: Mapping[tuple[str, str], bytes],
    identity_sha256: str | None,
    *,
    where: str,
    latents_identity_sha256: str | None = None,
) -> bytes:
    """The bytes of `index.arrow`.

    Args:
        records: The stored bytes of every ledger record by (group, shard).
        identity_sha256: As for `index_schema`.
        latents_identity_sha256: As for `index_schema`.
        where: Names the ledger, for errors.

    Raises:
        DamagedDataError, ContractError: A record is not what was written.
    """
    index = IndexWriter(identity_sha256, latents_identity_sha256, where=where)
    for group, shard in sorted(records):
        index.add(group, shard, records[group, shard])
    return index.finish()


def load_index(data: bytes, *, where: str) -> pa.Table:
    """Reads `index.arrow` after checking its digest.

    Raises:
        DamagedDataError: The bytes are not what was written.
    """
    content = pa.py_buffer(data)
    try:
        schema = ipc.read_schema(content[8:]) if data.startswith(b"ARROW1") else None
        digest = (schema.metadata or {}).get(_DIGEST_KEY, b"") if schema is not None else b""
    except UNREADABLE as error:
        raise _damaged(where, str(error)[:300]) from error
    if len(digest) != 64 or hashlib.sha256(data.replace(digest, _NO_DIGEST)).hexdigest().encode() != digest:
        raise _damaged(where, "its sha256 does not match")
    assert schema is not None
    try:
        return _read_table(content[8:], schema)
    except UNREADABLE as error:
        raise _damaged(where, str(error)[:300]) from error


def _read_table(stream: pa.Buffer, schema: pa.Schema) -> pa.Table:
    """An index's table, batch by batch: whoever wrote a digest may have written it beside a bomb.

    Raises:
        ValueError, pa.ArrowException: It has other columns, nulls, or declares too much.
    """
    if not schema.equals(index_schema(None)):
        raise ValueError(f"columns {schema.names} of types {[str(field.type)[:40] for field in schema]}")
    budget = MAX_INDEX_RATIO * stream.size
    batches = []
    messages = ipc.MessageReader.open_stream(stream)
    messages.read_next_message()
    for message in messages:
        require_small(message, budget, max_rows=stream.size)
        batch = ipc.read_record_batch(message, schema)
        batch.validate(full=True)
        if any(column.null_count for column in batch.columns):
            raise ValueError("nulls in columns that have none")
        budget -= batch.nbytes
        batches.append(batch)
    return pa.Table.from_batches(batches, schema)


def iter_ledger(store: Store) -> Iterator[tuple[tuple[str, str], bytes]]:
    """(group, shard) and stored bytes of every ledger record, unchecked, in that order; a few are read ahead."""
    names = sorted((group, shard) for group, shards in list_committed(store).items() for shard in shards)
    with ThreadPoolExecutor(_LEDGER_READERS) as readers:
        for start in range(0, len(names), _ROWS_PER_BATCH):
            some = names[start : start + _ROWS_PER_BATCH]
            yield from zip(some, readers.map(lambda name: store.get(record_path(*name)), some), strict=True)


def read_ledger(store: Store) -> dict[tuple[str, str], bytes]:
    """The stored bytes of every ledger record, by (group, shard), unchecked."""
    return dict(iter_ledger(store))


def write_index(store: Store, identity_sha256: str | None, latents_identity_sha256: str | None = None) -> int:
    """Makes `index.arrow` from the ledger and stores it, replacing an older one.

    Args:
        store: The dataset.
        identity_sha256: As for `index_schema`.
        latents_identity_sha256: As for `index_schema`.

    Returns:
        The number of records in it.

    Raises:
        DamagedDataError, ContractError: A ledger record is not what was written.
    """
    index = IndexWriter(identity_sha256, latents_identity_sha256, where=store.url)
    count = 0
    for name, data in iter_ledger(store):
        index.add(*name, data)
        count += 1
    store.replace(INDEX_PATH, index.finish())
    return count


def records_from_ledger(store: Store) -> Iterable[LedgerRecord]:
    """Every ledger record, checked, in (group, shard) order.

    Raises:
        DamagedDataError, ContractError: A record is not what was written.
    """
    for (group, shard), data in iter_ledger(store):
        yield load_record(data, where=f"{store.locate(LEDGER_FOLDER)}/{group}/{shard}.json")


def _damaged(where: str, actual: str) -> DamagedDataError:
    return DamagedDataError(
        "index-damaged",
        where=where,
        expected="an index with a matching digest",
        actual=actual,
        remedy="run the encode command again (it rewrites the index from the ledger), or delete index.arrow",
    )

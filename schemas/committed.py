"""What is committed to a dataset, as its index or its ledger says."""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

import pyarrow as pa

from schemas.errors import ContractError
from schemas.group_schema import manifest_path, require_manifest
from schemas.index import INDEX_PATH, load_index, read_ledger
from schemas.latent_manifest import Manifests
from schemas.ledger import LedgerRecord, load_record, record_path, valid_record
from schemas.limits import MAX_INDEX_BYTES
from schemas.storage import Store

_T = TypeVar("_T")

_REMEMBERED = 4096
"""What is kept parsed, such as records. A dataset may have a million of them; a reader has a few shards in use."""


class Committed:
    """The ledger records of a dataset, read once; parsed when they are asked for. Threads may share it.

    Args:
        store: The dataset.
        manifests: Its manifests.
        source: "index", "ledger", or "auto" for the index if there is one.

    Raises:
        DamagedDataError, ContractError: The index, or a record of the ledger, is not what was written.
    """

    def __init__(self, store: Store, manifests: Manifests, source: Literal["auto", "index", "ledger"]) -> None:
        self._store = store
        self._manifests = manifests
        self._num_rows: dict[str, dict[str, int]] = {}
        self._stored: dict[tuple[str, str], bytes | pa.Scalar] = {}
        self._parsed: dict[tuple[str, str], LedgerRecord] = {}
        self._identities: dict[str, str] = {}
        if source == "index" or (source == "auto" and store.head(INDEX_PATH) is not None):
            self._open_index()
        else:
            self._open_ledger()

    def _open_index(self) -> None:
        table = load_index(self._store.get(INDEX_PATH, max_bytes=MAX_INDEX_BYTES), where=self._store.locate(INDEX_PATH))
        for batch in table.to_batches():
            names = zip(batch.column("group").to_pylist(), batch.column("shard").to_pylist(), strict=True)
            rows = batch.column("num_rows").to_pylist()
            records = batch.column("record")
            for index, name in enumerate(names):
                self._num_rows.setdefault(name[0], {})[name[1]] = rows[index]
                self._stored[name] = records[index]

    def _open_ledger(self) -> None:
        self._stored.update(sorted(read_ledger(self._store).items()))
        for group, shard in self._stored:
            self._num_rows.setdefault(group, {})[shard] = self.record(group, shard).num_rows

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of which there are shards, sorted."""
        return tuple(sorted(self._num_rows))

    def num_rows(self, group: str) -> dict[str, int]:
        """Rows of each committed shard of a group, null rows included.

        Raises:
            ContractError: No shard of it is committed.
        """
        if group not in self._num_rows:
            raise self._missing(f"group {group!r}")
        return self._num_rows[group]

    def record(self, group: str, shard: str) -> LedgerRecord:
        """A shard's ledger record for a group.

        Raises:
            ContractError: Not committed, or of another identity than the manifest.
            DamagedDataError: The record is not what was written.
        """
        name = (group, shard)
        record = self._parsed.get(name)
        if record is None:
            where = self._store.locate(record_path(group, shard))
            record = load_record(self._data(group, shard), where=where)
            self._require_identity(group, record.identity_sha256, where)
            remember(self._parsed, name, record)
        return record

    def body(self, group: str, shard: str) -> dict[str, Any]:
        """A ledger record's fields, for whoever goes through all of them: twenty times quicker than `record`.

        The index carries a digest of its own and a ledger's records were checked when they were read, so that the bytes
        are known to be those that were written; the fields are not validated again, nor kept. Whoever uses them does so
        under `valid_record`, as they may be of a hostile index.

        Raises:
            ContractError: Not committed, of another identity than the manifest, or no record.
        """
        where = self._store.locate(record_path(group, shard))
        with valid_record(where):
            body: dict[str, Any] = json.loads(self._data(group, shard))
            identity = body["identity_sha256"]
        self._require_identity(group, identity, where)
        return body

    def _data(self, group: str, shard: str) -> bytes:
        stored = self._stored.get((group, shard))
        if stored is None:
            raise self._missing(f"group {group!r}, shard {shard!r}")
        data: bytes = stored if isinstance(stored, bytes) else stored.as_py()
        return data

    def _require_identity(self, group: str, actual: str, where: str) -> None:
        path = manifest_path(group)
        if path not in self._identities:
            manifest = require_manifest(self._manifests, group, where=self._store.url)
            self._identities[path] = manifest.identity_sha256
        expected = self._identities[path]
        if actual != expected:
            raise _mixed(expected, actual, where=where)

    def _missing(self, what: str) -> ContractError:
        return ContractError(
            "not-committed",
            where=self._store.url,
            expected=f"{what} to be committed",
            actual="no such record in the index or ledger",
            remedy="see `python -m schemas inspect` for what there is; run the encode command to add to it",
        )


def _mixed(expected: str, actual: str, *, where: str) -> ContractError:
    return ContractError(
        "record-identity",
        where=where,
        expected=f"identity {expected[:16]}... of the manifest",
        actual=f"identity {actual[:16]}...",
        remedy="two encodings are mixed: delete the record and encode the shard again with the dataset's options",
    )


def remember(cache: dict[tuple[str, str], _T], name: tuple[str, str], value: _T) -> None:
    """Keeps a value by (group, shard), and not too many of them."""
    if len(cache) >= _REMEMBERED:
        cache.clear()
    cache[name] = value

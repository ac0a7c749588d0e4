"""The committed-shard reader: what a dataset holds, row by row or chunk by chunk.

The index (or, without one, the ledger) is read once when a dataset is opened; after that every chunk is one ranged
read, checked against the ledger before a byte of it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.arrow_schema import caption_schema
from schemas.errors import ContractError
from schemas.identity import ENCODER_NAMES, EncoderIdentity
from schemas.index import INDEX_PATH, load_index, read_ledger
from schemas.ledger import Chunk, LedgerRecord, Part, load_record, part_path, record_path
from schemas.manifest import Manifest, read_manifest
from schemas.parts import check_chunk, read_chunk
from schemas.planes import merge_planes, row_planes
from schemas.storage import Store


@dataclass(frozen=True)
class EncodedCaption:
    """What one encoder made of one caption.

    Attributes:
        hidden: [T, D] in the storage dtype; T is `max_tokens` under padding "max_length", `num_tokens` under "none".
        pooled: [P], the projected state at EOS; None for T5.
        eos: [D], the final-norm state at EOS before projection; None for T5.
        num_tokens: Real tokens, begin and end tokens included.
        truncated: Whether tokens were cut to fit `max_tokens`.
    """

    hidden: npt.NDArray[np.generic]
    pooled: npt.NDArray[np.generic] | None
    eos: npt.NDArray[np.generic] | None
    num_tokens: int
    truncated: bool


class Row:
    """One sample of one column group. Tensors are decoded when they are asked for."""

    def __init__(self, batch: pa.RecordBatch, index: int, manifest: Manifest) -> None:
        self._batch = batch
        self._index = index
        self._manifest = manifest

    @property
    def key(self) -> str:
        """The sample's key: its path in the tar up to the first dot of the base name."""
        return str(self._batch.column("key")[self._index].as_py())

    @property
    def caption(self) -> str | None:
        """The caption as it stood in the tar; None where it could not be read."""
        caption: str | None = self._batch.column("caption")[self._index].as_py()
        return caption

    @property
    def is_null(self) -> bool:
        """Whether the row only holds a place: its input is in the rejects."""
        return not self._batch.column(ENCODER_NAMES[0])[self._index].is_valid

    def __getitem__(self, encoder: str) -> EncodedCaption:
        """What `encoder` ("clip_l", "clip_g" or "t5") made of the caption.

        Raises:
            KeyError: No such encoder.
            ContractError: The row is null.
        """
        if encoder not in ENCODER_NAMES:
            raise KeyError(f"{encoder!r} is not one of {', '.join(ENCODER_NAMES)}")
        column = self._batch.column(encoder)
        if not column[self._index].is_valid:
            raise ContractError(
                "row-null",
                where=f"row {self.key!r}",
                expected="a row that was encoded",
                actual="a null row: the input is in the shard's rejects",
                remedy="check row.is_null first",
            )
        return _decode(column, self._index, self._manifest.captions.encoder(encoder))

    def __repr__(self) -> str:
        return f"Row(key={self.key!r}, caption={self.caption!r})"


class Dataset:
    """A dataset as it was when opened.

    Args:
        url: Folder or bucket URL.
        source: "index" reads `index.arrow`, the snapshot made when the last run ended; "ledger" reads every ledger
            record, which also shows what an unfinished run has committed; "auto" takes the index if there is one.

    Raises:
        MissingObjectError: No dataset there.
        DamagedDataError, ContractError: Its manifest or index is damaged or of another version.
    """

    def __init__(self, url: str, source: Literal["auto", "index", "ledger"] = "auto") -> None:
        self.store = Store(url)
        self.manifest = read_manifest(self.store)
        self._num_rows: dict[str, dict[str, int]] = {}
        self._stored_records: dict[tuple[str, str], bytes | pa.Scalar] = {}
        self._records: dict[tuple[str, str], LedgerRecord] = {}
        if source == "index" or (source == "auto" and self.store.head(INDEX_PATH) is not None):
            self._open_index()
        else:
            self._open_ledger()

    def _open_index(self) -> None:
        table = load_index(self.store.get(INDEX_PATH), where=self.store.locate(INDEX_PATH))
        for batch in table.to_batches():
            names = zip(batch.column("group").to_pylist(), batch.column("shard").to_pylist(), strict=True)
            rows = batch.column("num_rows").to_pylist()
            records = batch.column("record")
            for index, name in enumerate(names):
                self._num_rows.setdefault(name[0], {})[name[1]] = rows[index]
                self._stored_records[name] = records[index]

    def _open_ledger(self) -> None:
        self._stored_records.update(sorted(read_ledger(self.store).items()))
        for group, shard in self._stored_records:
            self._num_rows.setdefault(group, {})[shard] = self.record(group, shard).num_rows

    @property
    def groups(self) -> tuple[str, ...]:
        """The column groups, sorted."""
        return tuple(sorted(self._num_rows))

    def shards(self, group: str) -> tuple[str, ...]:
        """The committed shards of a group, sorted by name."""
        return tuple(sorted(self._shards(group)))

    def num_rows(self, group: str) -> int:
        """Rows of a group, null rows included: as many as `rows` yields."""
        return sum(self._shards(group).values())

    def record(self, group: str, shard: str) -> LedgerRecord:
        """A shard's ledger record for a group.

        Raises:
            ContractError: Not committed, or of another identity than the manifest.
            DamagedDataError: The record is not what was written.
        """
        name = (group, shard)
        if name not in self._records:
            stored = self._stored_records.get(name)
            if stored is None:
                raise _not_committed(self.store, group, shard)
            data = stored if isinstance(stored, bytes) else stored.as_py()
            where = self.store.locate(record_path(group, shard))
            record = load_record(data, where=where)
            require_manifest_identity(record, self.manifest, where=where)
            self._records[name] = record
        return self._records[name]

    def read_chunk(self, group: str, shard: str, chunk: int) -> pa.RecordBatch:
        """One chunk, with one ranged read, its checksum verified.

        Args:
            group: Column group.
            shard: Shard name.
            chunk: Index of the chunk within the shard, from 0; the same rows in every group.

        Raises:
            IndexError: The shard has fewer chunks.
            MissingObjectError, StorageError: The part cannot be read.
            DamagedDataError: It is not what was written.
        """
        chunks = list(self.record(group, shard).chunks())
        if not 0 <= chunk < len(chunks):
            raise IndexError(f"shard {shard!r} has {len(chunks)} chunks in group {group!r}, not {chunk + 1}")
        return self._read(group, shard, *chunks[chunk])

    def rows(self, group: str, shard: str | None = None) -> Iterator[Row]:
        """The rows of a group, shards by name, rows in the order of their tar. Null rows are yielded too.

        Args:
            group: Column group.
            shard: Only this shard's.

        Raises:
            As `read_chunk`.
        """
        for name in self.shards(group) if shard is None else (shard,):
            for part, chunk in self.record(group, name).chunks():
                batch = self._read(group, name, part, chunk)
                for index in range(batch.num_rows):
                    yield Row(batch, index, self.manifest)

    def _read(self, group: str, shard: str, part: Part, chunk: Chunk) -> pa.RecordBatch:
        path = part_path(shard, part.name)
        where = f"{self.store.locate(path)} at byte {chunk.offset}"
        data = self.store.get_range(path, chunk.offset, chunk.num_bytes)
        check_chunk(data, chunk, where=where)
        schema = caption_schema(self.manifest, group, shard)
        batch = read_chunk(data, self.manifest.layout.container, schema, where=where)
        if batch.num_rows != chunk.num_rows:
            raise ContractError(
                "chunk-rows",
                where=where,
                expected=f"{chunk.num_rows} rows",
                actual=f"{batch.num_rows} rows",
                remedy="delete the part and the shard's ledger record, and encode it again",
            )
        return batch

    def _shards(self, group: str) -> dict[str, int]:
        if group not in self._num_rows:
            raise _not_committed(self.store, group, None)
        return self._num_rows[group]


def open_dataset(url: str, source: Literal["auto", "index", "ledger"] = "auto") -> Dataset:
    """Opens a dataset at a folder or bucket URL; see `Dataset`."""
    return Dataset(url, source)


def require_manifest_identity(record: LedgerRecord, manifest: Manifest, *, where: str) -> None:
    """Refuses a record of another identity than its dataset.

    Raises:
        ContractError: The digests differ.
    """
    if record.identity_sha256 != manifest.identity_sha256:
        raise ContractError(
            "record-identity",
            where=where,
            expected=f"identity {manifest.identity_sha256[:16]}... of the manifest",
            actual=f"identity {record.identity_sha256[:16]}...",
            remedy="two encodings are mixed: delete the record and encode the shard again with the dataset's options",
        )


def _decode(column: pa.StructArray, row: int, identity: EncoderIdentity) -> EncodedCaption:
    def tensor(name: str) -> npt.NDArray[np.generic]:
        return merge_planes(row_planes(column.field(name), row), identity.storage_dtype)

    has_pooled = identity.pooled_size is not None
    return EncodedCaption(
        hidden=tensor("hidden").reshape(-1, identity.hidden_size),
        pooled=tensor("pooled") if has_pooled else None,
        eos=tensor("eos") if has_pooled else None,
        num_tokens=column.field("num_tokens")[row].as_py(),
        truncated=column.field("truncated")[row].as_py(),
    )


def _not_committed(store: Store, group: str, shard: str | None) -> ContractError:
    what = f"group {group!r}" + (f", shard {shard!r}" if shard else "")
    return ContractError(
        "not-committed",
        where=store.url,
        expected=f"{what} to be committed",
        actual="no such record in the index or ledger",
        remedy="see `python -m schemas inspect` for what there is; run the encode command to add to it",
    )

"""The committed-shard reader: what a dataset holds, row by row or chunk by chunk.

The index (or, without one, the ledger) is read once when a dataset is opened; after that every chunk is one ranged
read, checked against the ledger before a byte of it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa

from schemas.committed import Committed, remember
from schemas.container_arrow import ChunkData
from schemas.errors import ContractError
from schemas.group_schema import require_manifest, schema_of
from schemas.latent_manifest import LATENTS_GROUP, LatentManifest, read_manifests
from schemas.ledger import Chunk, LedgerRecord, Part, part_path
from schemas.manifest import LATENT_MANIFEST_PATH, MANIFEST_PATH, Layout, Manifest
from schemas.parts import check_chunk, read_chunk
from schemas.row import EncodedCaption, LatentRow, Row
from schemas.storage import Store

__all__ = ["Dataset", "EncodedCaption", "LatentRow", "Row", "open_dataset"]


class Dataset:
    """A dataset as it was when opened.

    Args:
        url: Folder or bucket URL.
        source: "index" reads `index.arrow`, the snapshot made when the last run ended; "ledger" reads every ledger
            record, which also shows what an unfinished run has committed; "auto" takes the index if there is one.

    Raises:
        MissingObjectError: No dataset there.
        DamagedDataError, ContractError: A manifest or the index is damaged or of another version, or the manifests of
            captions and latents have different layouts.
    """

    def __init__(self, url: str, source: Literal["auto", "index", "ledger"] = "auto") -> None:
        self.store = Store(url)
        self.manifests = read_manifests(self.store)
        self._committed = Committed(self.store, self.manifests, source)
        self._schemas: dict[tuple[str, str], pa.Schema] = {}

    @property
    def manifest(self) -> Manifest:
        """The manifest of the captions.

        Raises:
            ContractError: The dataset has none, only latents.
        """
        if self.manifests.captions is None:
            raise _no_captions(self.store)
        return self.manifests.captions

    @property
    def latents(self) -> LatentManifest | None:
        """The manifest of the image latents; None if the dataset has none."""
        return self.manifests.latents

    @property
    def layout(self) -> Layout:
        """The layout of all groups."""
        return self.manifests.layout

    @property
    def caption_groups(self) -> tuple[str, ...]:
        """The column groups but for the latents, sorted."""
        return tuple(group for group in self.groups if group != LATENTS_GROUP)

    @property
    def groups(self) -> tuple[str, ...]:
        """The column groups, sorted."""
        return self._committed.groups

    def shards(self, group: str) -> tuple[str, ...]:
        """The committed shards of a group, sorted by name."""
        return tuple(sorted(self._committed.num_rows(group)))

    def num_rows(self, group: str) -> int:
        """Rows of a group, null rows included: as many as `rows` yields."""
        return sum(self._committed.num_rows(group).values())

    def record(self, group: str, shard: str) -> LedgerRecord:
        """A shard's ledger record for a group.

        Raises:
            ContractError: Not committed, or of another identity than the manifest.
            DamagedDataError: The record is not what was written.
        """
        return self._committed.record(group, shard)

    def record_body(self, group: str, shard: str) -> dict[str, Any]:
        """A ledger record's fields, for whoever goes through all of them: twenty times quicker than `record`.

        Raises:
            ContractError: Not committed, or of another identity than the manifest.
        """
        return self._committed.body(group, shard)

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

    def decode_chunk(
        self, group: str, shard: str, part: Part, chunk: Chunk, data: ChunkData, *, checked: bool = False
    ) -> pa.RecordBatch:
        """Decodes a chunk that the caller has fetched, its checksum verified. Threads may call it at the same time.

        Args:
            group: Column group.
            shard: Shard name.
            part: The part that the chunk is of.
            chunk: Its entry in the ledger.
            data: Its bytes, in any buffer; what is stored uncompressed is not copied, so the buffer must stay as it is.
            checked: The caller has verified the checksum of these bytes already.

        Raises:
            DamagedDataError: It is not what was written.
            ContractError: It is of another number of rows than its record says.
        """
        where = f"{self.store.locate(part_path(shard, part.name))} at byte {chunk.offset}"
        if not checked:
            check_chunk(data, chunk, where=where)
        batch = read_chunk(
            data,
            self.layout.container,
            self._schema(group, shard),
            max_rows=min(chunk.num_rows, self.layout.chunk_rows),
            max_row_bytes=require_manifest(self.manifests, group, where=where).row_bytes,
            where=where,
        )
        if batch.num_rows != chunk.num_rows:
            raise ContractError(
                "chunk-rows",
                where=where,
                expected=f"{chunk.num_rows} rows",
                actual=f"{batch.num_rows} rows",
                remedy="delete the part and the shard's ledger record, and encode it again",
            )
        return batch

    def rows(self, group: str, shard: str | None = None) -> Iterator[Row]:
        """The rows of a caption group, shards by name, rows in the order of their tar. Null rows are yielded too.

        Args:
            group: Column group; for that of the latents see `latent_rows`.
            shard: Only this shard's.

        Raises:
            ContractError: The group is that of the latents; or as `read_chunk`.
            MissingObjectError, StorageError, DamagedDataError: As `read_chunk`.
        """
        if group == LATENTS_GROUP:
            raise _not_captions(self.store)
        for batch in self._batches(group, shard):
            for index in range(batch.num_rows):
                yield Row(batch, index, self.manifest)

    def latent_rows(self, shard: str | None = None) -> Iterator[LatentRow]:
        """The rows of the group `latents`, shards by name, rows in the order of their tar. Null rows are yielded too.

        Args:
            shard: Only this shard's.

        Raises:
            As `read_chunk`.
        """
        for batch in self._batches(LATENTS_GROUP, shard):
            assert self.latents is not None
            for index in range(batch.num_rows):
                yield LatentRow(batch, index, self.latents)

    def _batches(self, group: str, shard: str | None) -> Iterator[pa.RecordBatch]:
        for name in self.shards(group) if shard is None else (shard,):
            for part, chunk in self.record(group, name).chunks():
                yield self._read(group, name, part, chunk)

    def _read(self, group: str, shard: str, part: Part, chunk: Chunk) -> pa.RecordBatch:
        data = self.store.get_range(part_path(shard, part.name), chunk.offset, chunk.num_bytes)
        return self.decode_chunk(group, shard, part, chunk, data)

    def _schema(self, group: str, shard: str) -> pa.Schema:
        schema = self._schemas.get((group, shard))
        if schema is None:
            manifest = require_manifest(self.manifests, group, where=self.store.url)
            schema = schema_of(manifest, group, shard)
            remember(self._schemas, (group, shard), schema)
        return schema


def open_dataset(url: str, source: Literal["auto", "index", "ledger"] = "auto") -> Dataset:
    """Opens a dataset at a folder or bucket URL; see `Dataset`."""
    return Dataset(url, source)


def _no_captions(store: Store) -> ContractError:
    return ContractError(
        "manifest-missing",
        where=store.locate(MANIFEST_PATH),
        expected="a dataset with captions",
        actual=f"no {MANIFEST_PATH}, only {LATENT_MANIFEST_PATH}: it holds image latents alone",
        remedy="encode the captions into it, or open the dataset that has them",
    )


def _not_captions(store: Store) -> ContractError:
    return ContractError(
        "not-captions",
        where=store.url,
        expected="a caption group",
        actual=f"group {LATENTS_GROUP!r}, which holds image latents",
        remedy="read it with latent_rows()",
    )

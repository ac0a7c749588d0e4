"""Part files: a shard's group as a sequence of bounded, content-addressed files.

A part is built in memory, as its name needs its checksum and nothing is ever renamed; so a part's size bounds a
writer's memory, whatever the shard's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import xxhash

from schemas.container_arrow import ArrowPartBuilder, ChunkData, read_arrow_chunk
from schemas.container_webdataset import WebDatasetPartBuilder, read_webdataset_chunk
from schemas.errors import DamagedDataError
from schemas.ledger import Chunk, Part
from schemas.limits import MAX_CAPTION_BYTES, MAX_KEY_BYTES, MAX_ROW_OVERHEAD_BYTES
from schemas.manifest import CONTAINER_SUFFIX, Container, Layout


class PartBuilder(Protocol):
    """What a container must offer to be written."""

    def add(self, batch: pa.RecordBatch) -> tuple[bytes, bytes]:
        """Bytes before the chunk (empty but for a part's first), and the chunk's own."""

    def finish(self) -> bytes:
        """Bytes after the last chunk."""


@dataclass(frozen=True)
class BuiltPart:
    """A finished part, not yet stored.

    Attributes:
        entry: Its entry for the ledger.
        data: Its bytes, in pieces, so that no copy of the whole is made.
    """

    entry: Part
    data: list[bytes]


def chunk_checksum(data: ChunkData) -> str:
    """XXH3-64 in hex: quick enough to check every read; the part's SHA-256 is what names it."""
    return xxhash.xxh3_64_hexdigest(data)


def build_parts(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, group: str, layout: Layout
) -> Iterator[BuiltPart]:
    """Packs chunks into parts.

    Args:
        batches: The shard's chunks in row order, `layout.chunk_rows` rows each but the last.
        schema: From `caption_schema` or `latent_schema`.
        group: Column group, the beginning of the parts' names.
        layout: The dataset's layout; a part is closed before it would grow beyond `part_bytes`, unless a single
            chunk does.

    Yields:
        Parts in row order; none if there are no batches.
    """
    part: _PartInMemory | None = None
    index = 0
    for batch in batches:
        assert 0 < batch.num_rows <= layout.chunk_rows
        # What a chunk compresses to is only known once it is in a part, so its raw size decides: parts end up at most
        # one chunk smaller than they might be, and never larger than promised.
        if part is not None and part.num_bytes + batch.nbytes > layout.part_bytes:
            yield part.finish(group, index)
            index, part = index + 1, None
        if part is None:
            part = _PartInMemory(layout.container, schema)
        part.add(batch)
    if part is not None:
        yield part.finish(group, index)


def read_chunk(
    data: ChunkData, container: Container, schema: pa.Schema, *, max_rows: int, max_row_bytes: int, where: str
) -> pa.RecordBatch:
    """Decodes one chunk of either container.

    Args:
        data: The chunk's bytes.
        container: How they are laid out.
        schema: Of the part.
        max_rows: Rows that may be in it.
        max_row_bytes: Bytes of the tensors of a row, by the manifest; what they say in a hostile chunk is not believed.
        where: Names the chunk, for errors.

    Raises:
        DamagedDataError: The bytes are not a chunk of this schema, or declare more than an honest one can hold.
    """
    read = read_arrow_chunk if container == "arrow" else read_webdataset_chunk
    max_bytes = max_rows * (max_row_bytes + MAX_KEY_BYTES + MAX_CAPTION_BYTES + MAX_ROW_OVERHEAD_BYTES)
    return read(data, schema, max_rows=max_rows, max_bytes=max_bytes, where=where)


def check_chunk(data: ChunkData, chunk: Chunk, *, where: str) -> None:
    """Compares a chunk's bytes with the ledger.

    Raises:
        DamagedDataError: They are not the bytes that were written.
    """
    actual = chunk_checksum(data)
    if actual != chunk.xxh3_64:
        raise DamagedDataError(
            "chunk-checksum",
            where=where,
            expected=f"xxh3_64 {chunk.xxh3_64}",
            actual=f"xxh3_64 {actual}",
            remedy="read again; if it stays, restore the part, or delete it and the ledger record and encode again",
        )


class _PartInMemory:
    """One part while it is being built."""

    def __init__(self, container: Container, schema: pa.Schema) -> None:
        self._container = container
        self._builder: PartBuilder = ArrowPartBuilder(schema) if container == "arrow" else WebDatasetPartBuilder(schema)
        self._data: list[bytes] = []
        self._chunks: list[Chunk] = []
        self._hasher = hashlib.sha256()
        self.num_bytes = 0

    def add(self, batch: pa.RecordBatch) -> None:
        before, data = self._builder.add(batch)
        self._append(before)
        self._chunks.append(
            Chunk(offset=self.num_bytes, num_bytes=len(data), num_rows=batch.num_rows, xxh3_64=chunk_checksum(data))
        )
        self._append(data)

    def finish(self, group: str, index: int) -> BuiltPart:
        self._append(self._builder.finish())
        sha256 = self._hasher.hexdigest()
        name = f"{group}-{index:05d}-{sha256[:16]}{CONTAINER_SUFFIX[self._container]}"
        entry = Part(name=name, num_bytes=self.num_bytes, sha256=sha256, chunks=tuple(self._chunks))
        return BuiltPart(entry, self._data)

    def _append(self, data: bytes) -> None:
        self._data.append(data)
        self._hasher.update(data)
        self.num_bytes += len(data)

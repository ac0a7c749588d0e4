"""Part files: a shard's group as a sequence of bounded, content-addressed files.

A part is built in memory, as its name contains its checksum and nothing is ever renamed. Several chunks are encoded at
the same time, a bounded number of them, and appended to parts in row order by one thread, which also computes SHA-256.
So `part_bytes` and the number of threads bound a writer's memory, whatever the size of the shard.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from typing import Final, Protocol

import pyarrow as pa
import xxhash

from schemas.container_arrow import ArrowWriter, ChunkData, EncodedChunk, read_arrow_chunk
from schemas.container_webdataset import WebDatasetWriter, read_webdataset_chunk
from schemas.errors import DamagedDataError
from schemas.ledger import Chunk, Part
from schemas.limits import MAX_CAPTION_BYTES, MAX_KEY_BYTES, MAX_ROW_OVERHEAD_BYTES
from schemas.manifest import CONTAINER_SUFFIX, Container, Layout

_CHUNK_BYTES: Final = 32 * 1024**2
"""Raw bytes of a large chunk, by the layout that is chosen if nobody says otherwise."""


class ContainerWriter(Protocol):
    """What a container must offer to be written."""

    @property
    def head(self) -> bytes:
        """Bytes before a part's first chunk."""

    def encode(self, batch: pa.RecordBatch, helpers: Executor | None = None) -> EncodedChunk:
        """A chunk's own bytes."""

    def tail(self, chunks: Iterable[tuple[int, EncodedChunk]]) -> bytes:
        """Bytes after a part's last chunk, given all its chunks with their offsets."""


@dataclass(frozen=True)
class LazyBatch:
    """A chunk whose record batch is made by the thread that encodes it.

    Attributes:
        num_bytes: Raw bytes of its tensors; limits how many chunks are encoded at the same time.
        make: Makes the batch; called once, in any thread.
    """

    num_bytes: int
    make: Callable[[], pa.RecordBatch]


@dataclass(frozen=True)
class BuiltPart:
    """A finished part, not yet stored.

    Attributes:
        entry: Its entry for the ledger.
        data: Its bytes, in pieces, so that no copy of the whole is made.
    """

    entry: Part
    data: list[bytes | memoryview]


def chunk_checksum(data: ChunkData) -> str:
    """XXH3-64 in hex: quick enough to check every read; the part's SHA-256 is what names it."""
    return xxhash.xxh3_64_hexdigest(data)


def build_parts(
    batches: Iterable[pa.RecordBatch | LazyBatch], schema: pa.Schema, group: str, layout: Layout, pool: Executor
) -> Generator[BuiltPart, None, None]:
    """Packs chunks into parts. The bytes depend on the rows and the layout alone, not on the number of threads.

    Memory holds the part that is being built and up to `chunks_in_flight()` chunks that are waiting to be encoded,
    being encoded (made, compressed, checksummed), or encoded and not yet in a part. Their raw bytes together are at
    most 32 MiB for each of that number, unless a single chunk is larger; encoded, they are hardly ever larger.

    Args:
        batches: The shard's chunks in row order, `layout.chunk_rows` rows each but the last.
        schema: From `caption_schema` or `latent_schema`.
        group: Column group, the beginning of the parts' names.
        layout: The dataset's layout; a part is closed before it would grow beyond `part_bytes`, unless a single
            chunk does.
        pool: From `encoding_pool`; shards may share it.

    Yields:
        Parts in row order; none if there are no batches. A caller that stops early closes the generator, which cancels
        the chunks that are waiting and waits for those that are being encoded.

    Raises:
        Whatever `batches` or the encoding of a chunk raises, after the chunks before it were appended.
    """
    writer: ContainerWriter = ArrowWriter(schema) if layout.container == "arrow" else WebDatasetWriter(schema)
    with closing(_encode_in_order(batches, writer, layout, pool)) as chunks:
        part: _PartInMemory | None = None
        index = 0
        for chunk in chunks:
            # By its raw size, as SPEC.md says: parts end up at most one chunk smaller than they might be, and never
            # larger than promised.
            if part is not None and part.num_bytes + chunk.raw_bytes > layout.part_bytes:
                yield part.finish(group, index)
                index, part = index + 1, None
            if part is None:
                part = _PartInMemory(layout.container, writer)
            part.add(chunk)
        if part is not None:
            yield part.finish(group, index)


def encoding_pool() -> ThreadPoolExecutor:
    """Threads that encode chunks, as many as Arrow may use. They end when the pool is shut down or collected."""
    return ThreadPoolExecutor(pa.cpu_count(), "encode-chunk")


def chunks_in_flight() -> int:
    """Bound on the chunks of one shard that are waiting, being encoded, or not yet in a part.

    One more than threads, so that a thread need not wait for the one that builds parts. Nine at most: eight chunks at
    the same time outrun SHA-256, which is sequential within a part.
    """
    threads: int = pa.cpu_count()
    return min(threads, 8) + 1


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


@dataclass(frozen=True)
class _Chunk:
    """`raw_bytes`: of the record batch, as Arrow counts them."""

    encoded: EncodedChunk
    num_rows: int
    raw_bytes: int
    xxh3_64: str


def _encode(
    waiting: list[pa.RecordBatch | LazyBatch], writer: ContainerWriter, layout: Layout, pool: Executor
) -> _Chunk:
    # Removed from the list, because the pool keeps the arguments of a running call: a batch's tensors may be views
    # that keep a whole window of captions in memory.
    batch = waiting.pop()
    if isinstance(batch, LazyBatch):
        batch = batch.make()
    assert 0 < batch.num_rows <= layout.chunk_rows
    encoded = writer.encode(batch, pool)
    checksum = xxhash.xxh3_64()
    for piece in encoded.pieces:
        checksum.update(piece)
    return _Chunk(encoded, batch.num_rows, batch.nbytes, checksum.hexdigest())


def _encode_in_order(
    batches: Iterable[pa.RecordBatch | LazyBatch], writer: ContainerWriter, layout: Layout, pool: Executor
) -> Generator[_Chunk, None, None]:
    """Encoded chunks in row order; bounds and errors as `build_parts` says."""
    most = chunks_in_flight()
    pending: deque[tuple[int, Future[_Chunk]]] = deque()
    num_bytes = 0
    source = iter(batches)
    try:
        while True:
            # At most one result before the next batch, so that the pool gets new work before SHA-256 of old work.
            if pending and (len(pending) == most or pending[0][1].done()):
                num_bytes -= pending[0][0]
                yield pending.popleft()[1].result()
            try:
                batch = next(source)
            except StopIteration:
                break
            except Exception:
                while pending:
                    yield pending.popleft()[1].result()
                raise
            size = batch.num_bytes if isinstance(batch, LazyBatch) else batch.nbytes
            while pending and num_bytes + size > most * _CHUNK_BYTES:
                num_bytes -= pending[0][0]
                yield pending.popleft()[1].result()
            pending.append((size, pool.submit(_encode, [batch], writer, layout, pool)))
            num_bytes += size
            del batch
        while pending:
            yield pending.popleft()[1].result()
    finally:
        wait([future for _, future in pending if not future.cancel()])


class _PartInMemory:
    """One part while it is being built."""

    def __init__(self, container: Container, writer: ContainerWriter) -> None:
        self._container = container
        self._writer = writer
        self._data: list[bytes | memoryview] = []
        self._chunks: list[tuple[Chunk, EncodedChunk]] = []
        self._hasher = hashlib.sha256()
        self.num_bytes = 0
        self._append([writer.head])

    def add(self, chunk: _Chunk) -> None:
        entry = Chunk(
            offset=self.num_bytes, num_bytes=chunk.encoded.num_bytes, num_rows=chunk.num_rows, xxh3_64=chunk.xxh3_64
        )
        self._chunks.append((entry, chunk.encoded))
        self._append(chunk.encoded.pieces)

    def finish(self, group: str, index: int) -> BuiltPart:
        self._append([self._writer.tail((entry.offset, encoded) for entry, encoded in self._chunks)])
        sha256 = self._hasher.hexdigest()
        name = f"{group}-{index:05d}-{sha256[:16]}{CONTAINER_SUFFIX[self._container]}"
        chunks = tuple(entry for entry, _ in self._chunks)
        return BuiltPart(Part(name=name, num_bytes=self.num_bytes, sha256=sha256, chunks=chunks), self._data)

    def _append(self, pieces: Iterable[bytes | memoryview]) -> None:
        for piece in pieces:
            self._data.append(piece)
            self._hasher.update(piece)
            self.num_bytes += len(piece)

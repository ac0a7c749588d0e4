"""The `arrow` container: a part is an Arrow IPC file, a chunk one of its record batches.

The ledger knows where each record batch lies, so that a reader fetches one with a single ranged read and no footer; the
footer is there for everybody else's tools.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
from pyarrow import ipc

from schemas.arrow_messages import FILE_HEAD, FILE_MAGIC, Block, file_end, record_batch_message
from schemas.errors import DamagedDataError
from schemas.record_batch_sizes import require_small

UNREADABLE = (
    pa.ArrowException,
    OSError,
    ValueError,
    LookupError,
    EOFError,
    OverflowError,
    StopIteration,
    RecursionError,
    MemoryError,
)
"""What pyarrow raises for bytes that are not Arrow's: EOFError for none, StopIteration for a stream without a batch."""

ChunkData: TypeAlias = bytes | bytearray | memoryview | mmap.mmap | pa.Buffer
"""A chunk's bytes, in whatever holds them."""


@dataclass(frozen=True)
class EncodedChunk:
    """A chunk as it will be stored, whatever part it will be in.

    Attributes:
        pieces: Its bytes, so that no copy of the whole is made.
        num_bytes: Of all pieces.
        metadata_bytes: Of the metadata at their beginning, which the footer of an Arrow file states; 0 in a tar.
    """

    pieces: list[bytes | memoryview]
    num_bytes: int
    metadata_bytes: int


class ArrowWriter:
    """Encodes the chunks of Arrow IPC files, and what these files have around them. Threads may share it."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self.head: bytes = FILE_HEAD + schema.serialize().to_pybytes()

    def encode(self, batch: pa.RecordBatch, helpers: Executor | None = None) -> EncodedChunk:
        """A chunk's message."""
        message = record_batch_message(batch, helpers)
        return EncodedChunk(message.pieces, message.num_bytes, message.metadata_bytes)

    def tail(self, chunks: Iterable[tuple[int, EncodedChunk]]) -> bytes:
        """The bytes after the last chunk.

        Args:
            chunks: With their offsets in the file.
        """
        blocks = [
            Block(offset, chunk.metadata_bytes, chunk.num_bytes - chunk.metadata_bytes) for offset, chunk in chunks
        ]
        return file_end(self._schema, blocks)


def read_arrow_chunk(
    data: ChunkData, schema: pa.Schema, *, max_rows: int, max_bytes: int, where: str
) -> pa.RecordBatch:
    """Decodes one chunk, without a copy of `data` where that is not compressed.

    Args:
        data: The chunk.
        schema: Of its part.
        max_rows: Rows that may be in it.
        max_bytes: What its buffers may take, decoded.
        where: Names the chunk, for errors.

    Raises:
        DamagedDataError: The bytes are not a record batch of this schema, or declare more than they may.
    """
    try:
        message = ipc.read_message(pa.py_buffer(data))
        require_small(message, max_bytes, max_rows)
        batch = ipc.read_record_batch(message, schema)
        batch.validate(full=True)
    except UNREADABLE as error:
        raise undecodable(where, error) from error
    return batch


def read_arrow_head(data: bytes, *, where: str) -> pa.Schema:
    """The schema at the head of a part.

    Args:
        data: The part's first bytes, at least up to the first chunk.

    Raises:
        DamagedDataError: There is no Arrow IPC file there.
    """
    if not data.startswith(FILE_MAGIC):
        raise undecodable(where, ValueError(f"the file begins with {data[:8]!r}, not with ARROW1"))
    try:
        return ipc.read_schema(pa.py_buffer(data[len(FILE_HEAD) :]))
    except UNREADABLE as error:
        raise undecodable(where, error) from error


def undecodable(where: str, error: BaseException) -> DamagedDataError:
    """A chunk or part that its container's reader refuses."""
    return DamagedDataError(
        "chunk-undecodable",
        where=where,
        expected="a chunk as SPEC.md describes",
        actual=f"{type(error).__name__}: {str(error)[:300]}",
        remedy="restore the part, or delete it and the shard's ledger record and encode again",
    )

"""The `arrow` container: a part is an Arrow IPC file, a chunk one of its record batches.

The ledger knows where each record batch lies, so that a reader fetches one with a single ranged read and no footer; the
footer is there for everybody else's tools.
"""

from __future__ import annotations

import mmap
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


class ArrowPartBuilder:
    """Builds one Arrow IPC file, chunk by chunk."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._head = FILE_HEAD + schema.serialize().to_pybytes()
        self._blocks: list[Block] = []
        self._num_bytes = len(self._head)

    def add(self, batch: pa.RecordBatch) -> tuple[bytes, bytes]:
        """Appends a chunk.

        Returns:
            Bytes that come before the chunk (the file's head, once), and the chunk's own bytes.
        """
        before = b"" if self._blocks else self._head
        message = record_batch_message(batch)
        body_bytes = len(message.data) - message.metadata_bytes
        self._blocks.append(Block(self._num_bytes, message.metadata_bytes, body_bytes))
        self._num_bytes += len(message.data)
        return before, message.data

    def finish(self) -> bytes:
        """The bytes after the last chunk."""
        return file_end(self._schema, self._blocks)


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

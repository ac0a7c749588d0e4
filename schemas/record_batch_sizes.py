"""What a record batch's metadata declares, before Arrow takes memory for it.

A compressed buffer begins with its uncompressed length, eight bytes that whoever wrote them has chosen; Arrow allocates
that many. So they are added up first. Where they stand is said by the message's metadata, a flatbuffer, of which only
this is read here (format/Message.fbs and format/File.fbs of Arrow's sources; Arrow has verified its structure before):

    table Message     { version: short; header_type: ubyte; header: offset; bodyLength: long; ... }
    table RecordBatch { length: long; nodes: [FieldNode]; buffers: [Buffer]; compression: BodyCompression; ... }
    struct Buffer     { offset: long; length: long }
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import pyarrow as pa
from pyarrow import ipc

_HEADER_TYPE: Final = 1
_HEADER: Final = 2
_RECORD_BATCH: Final = 3
_LENGTH: Final = 0
_BUFFERS: Final = 2
_COMPRESSION: Final = 3

_UINT16 = struct.Struct("<H")
_INT32 = struct.Struct("<i")
_UINT32 = struct.Struct("<I")
_INT64 = struct.Struct("<q")


def require_small(message: ipc.Message, max_bytes: int, max_rows: int) -> None:
    """Refuses a message that is no record batch, or whose buffers or rows are more than they may be, once decoded.

    Args:
        message: As read; nothing of its body is decoded.
        max_bytes: Of all buffers together.
        max_rows: Rows.

    Raises:
        ValueError: It is another message, or too large; or its metadata is not what Arrow writes.
    """
    metadata = memoryview(message.metadata)
    try:
        num_rows, buffers, compressed = declared(metadata)
    except struct.error as error:
        raise ValueError(f"metadata that ends too soon: {error}") from error
    if not 0 <= num_rows <= max_rows:
        raise ValueError(f"{num_rows} rows, at most {max_rows} may be there")
    num_bytes = _decoded_bytes(message.body, buffers, compressed=compressed)
    if num_bytes > max_bytes:
        raise ValueError(f"buffers that declare {num_bytes} bytes, at most {max_bytes} may be there")


def declared(metadata: memoryview) -> tuple[int, np.ndarray, bool]:
    """What a message's metadata says: rows, buffers, and whether these are compressed.

    Returns:
        Rows; int64 [buffers, 2], offset and length in the body; and whether each begins with its uncompressed length.

    Raises:
        ValueError, struct.error: It is of no record batch.
    """
    message = _UINT32.unpack_from(metadata, 0)[0]
    header_type = _field(metadata, message, _HEADER_TYPE)
    if header_type == 0 or metadata[header_type] != _RECORD_BATCH:
        raise ValueError("a message that is no record batch")
    batch = _follow(metadata, _field(metadata, message, _HEADER))
    length = _field(metadata, batch, _LENGTH)
    num_rows = _INT64.unpack_from(metadata, length)[0] if length else 0
    field = _field(metadata, batch, _BUFFERS)
    compressed = _field(metadata, batch, _COMPRESSION) != 0
    if field == 0:
        return num_rows, np.empty((0, 2), np.int64), compressed
    vector = _follow(metadata, field)
    count = _UINT32.unpack_from(metadata, vector)[0]
    if vector + 4 + 16 * count > len(metadata):
        raise ValueError(f"metadata of {count} buffers that are not in it")
    return num_rows, np.frombuffer(metadata, "<i8", 2 * count, vector + 4).reshape(-1, 2), compressed


def _field(metadata: memoryview, table: int, index: int) -> int:
    """Where a table's field is; 0 if the table does not have it."""
    vtable = table - _INT32.unpack_from(metadata, table)[0]
    if vtable < 0:
        raise ValueError("metadata that begins before itself")
    place = 4 + 2 * index
    if place >= _UINT16.unpack_from(metadata, vtable)[0]:
        return 0
    offset: int = _UINT16.unpack_from(metadata, vtable + place)[0]
    return table + offset if offset else 0


def _follow(metadata: memoryview, place: int) -> int:
    found: int = place + _UINT32.unpack_from(metadata, place)[0]
    return found


def _decoded_bytes(body: pa.Buffer | None, buffers: np.ndarray, *, compressed: bool) -> int:
    size = 0 if body is None else body.size
    view = memoryview(b"") if body is None else memoryview(body)
    total = 0
    for offset, length in buffers.tolist():
        if offset < 0 or length < 0 or offset + length > size:
            raise ValueError(f"a buffer from byte {offset} to {offset + length} of a body of {size}")
        declared = _INT64.unpack_from(view, offset)[0] if compressed and length >= 8 else -1
        # -1 says that a buffer is not compressed after all.
        total += length if declared == -1 else declared
        if declared < -1:
            raise ValueError(f"a buffer that declares {declared} bytes")
    return total

"""What a record batch's metadata declares, before Arrow takes memory for it.

A compressed buffer begins with its uncompressed length, eight bytes that whoever wrote them has chosen; Arrow allocates
that many. So they are added up first. Where they stand is said by the message's metadata, a flatbuffer, of which only
this is read here (format/Message.fbs and format/File.fbs of Arrow's sources; Arrow has verified its structure before):

    table Message     { version: short; header_type: ubyte; header: offset; bodyLength: long; ... }
    table RecordBatch { length: long; nodes: [FieldNode]; buffers: [Buffer]; compression: BodyCompression; ... }
    struct FieldNode  { length: long; null_count: long }
    struct Buffer     { offset: long; length: long }
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import ipc

from schemas import flatbuffer

_HEADER_TYPE: Final = 1
_HEADER: Final = 2
_RECORD_BATCH: Final = 3
_LENGTH: Final = 0
_NODES: Final = 1
_BUFFERS: Final = 2
_COMPRESSION: Final = 3


class Declared(NamedTuple):
    """What a record batch's metadata says.

    Attributes:
        num_rows: Rows.
        nodes: int64 [fields, 2], rows and nulls of each field, nested ones behind their parents.
        buffers: int64 [buffers, 2], offset and length in the body.
        compressed: Whether each buffer begins with its uncompressed length.
    """

    num_rows: int
    nodes: npt.NDArray[np.int64]
    buffers: npt.NDArray[np.int64]
    compressed: bool


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
        found = declared(metadata)
    except struct.error as error:
        raise ValueError(f"metadata that ends too soon: {error}") from error
    if not 0 <= found.num_rows <= max_rows:
        raise ValueError(f"{found.num_rows} rows, at most {max_rows} may be there")
    num_bytes = _decoded_bytes(message.body, found.buffers, compressed=found.compressed)
    if num_bytes > max_bytes:
        raise ValueError(f"buffers that declare {num_bytes} bytes, at most {max_bytes} may be there")


def declared(metadata: memoryview) -> Declared:
    """What a message's metadata says.

    Raises:
        ValueError, struct.error: It is of no record batch.
    """
    message = flatbuffer.root_table(metadata)
    header_type = flatbuffer.field(metadata, message, _HEADER_TYPE)
    if header_type == 0 or metadata[header_type] != _RECORD_BATCH:
        raise ValueError("a message that is no record batch")
    batch = flatbuffer.follow(metadata, flatbuffer.field(metadata, message, _HEADER))
    length = flatbuffer.field(metadata, batch, _LENGTH)
    return Declared(
        flatbuffer.INT64.unpack_from(metadata, length)[0] if length else 0,
        _pairs(metadata, batch, _NODES),
        _pairs(metadata, batch, _BUFFERS),
        flatbuffer.field(metadata, batch, _COMPRESSION) != 0,
    )


def _pairs(metadata: memoryview, batch: int, index: int) -> npt.NDArray[np.int64]:
    begin, count = flatbuffer.vector(metadata, batch, index, 16)
    return np.frombuffer(metadata, "<i8", 2 * count, begin).reshape(-1, 2)


def _decoded_bytes(body: pa.Buffer | None, buffers: np.ndarray, *, compressed: bool) -> int:
    size = 0 if body is None else body.size
    view = memoryview(b"") if body is None else memoryview(body)
    total = 0
    for offset, length in buffers.tolist():
        if offset < 0 or length < 0 or offset + length > size:
            raise ValueError(f"a buffer from byte {offset} to {offset + length} of a body of {size}")
        declared = flatbuffer.INT64.unpack_from(view, offset)[0] if compressed and length >= 8 else -1
        # -1 says that a buffer is not compressed after all.
        total += length if declared == -1 else declared
        if declared < -1:
            raise ValueError(f"a buffer that declares {declared} bytes")
    return total

"""Record batches as Arrow IPC messages and files whose buffers are compressed by `compression`.

pyarrow compresses only as its own codecs do. So it makes each message without compression, and the message's metadata
are written anew with what the buffers have become: format/Message.fbs and format/File.fbs of Arrow's sources, and
https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format. A file's footer is pyarrow's, with other
places of record batches.
"""

from __future__ import annotations

import bisect
import io
import itertools
import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, NamedTuple

import flatbuffers
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import ipc

from schemas import compression, flatbuffer
from schemas.record_batch_sizes import declared

END_OF_STREAM: Final = b"\xff\xff\xff\xff\0\0\0\0"
FILE_MAGIC: Final = b"ARROW1"
"""At both ends of a file."""
FILE_HEAD: Final = FILE_MAGIC + b"\0\0"

_CONTINUATION: Final = b"\xff\xff\xff\xff"
_PREFIX_BYTES: Final = 8
_VERSION_5: Final = 4
_RECORD_BATCH: Final = 3
_ZSTD: Final = 1
_NOT_COMPRESSED: Final = -1
_ALIGNMENT: Final = 8
_SMALL_BYTES: Final = 64 * 1024
"""A copy of fewer bytes takes less time than a call of its own for them."""

_FOOTER_RECORD_BATCHES: Final = 3
_BLOCK: Final = struct.Struct("<qi4xq")


@dataclass(frozen=True)
class Message:
    """An encapsulated message.

    Attributes:
        pieces: Metadata and body, in pieces, so that no copy of the whole is made. A buffer that is stored as it is, is
            a view into the batch's own memory.
        metadata_bytes: Of the metadata, prefix and padding included.
        num_bytes: Of all pieces.
    """

    pieces: list[bytes | memoryview]
    metadata_bytes: int
    num_bytes: int


def record_batch_message(batch: pa.RecordBatch, helpers: Executor | None = None) -> Message:
    """A batch as a message, its body compressed.

    Args:
        batch: Any record batch, or a slice of one.
        helpers: As for `compression.compress`.
    """
    sink = _Sink()
    with ipc.new_stream(pa.PythonFile(sink, "w"), batch.schema) as writer:
        writer.write_batch(batch)
    start = sink.message_end(0)  # behind the schema
    body = start + _PREFIX_BYTES + sink.metadata_bytes(start)
    found = declared(sink.content(start + _PREFIX_BYTES, body))
    buffers = [sink.content(body + offset, body + offset + length) for offset, length in found.buffers.tolist()]
    pieces: list[bytes | memoryview] = []
    places: list[tuple[int, int]] = []
    end = 0
    for buffer, frame in zip(buffers, compression.compress(buffers, helpers), strict=True):
        size = 0
        if len(buffer):
            content = buffer if frame is None else frame
            prefix = flatbuffer.INT64.pack(_NOT_COMPRESSED if frame is None else len(buffer))
            size = len(prefix) + len(content)
            pieces += [prefix, content, bytes(-size % _ALIGNMENT)]
        places.append((end, size))
        end += size + -size % _ALIGNMENT
    metadata = _metadata(found.num_rows, found.nodes, np.array(places, np.int64).reshape(-1, 2), end)
    return Message(_joined_where_small([metadata, *pieces]), len(metadata), len(metadata) + end)


def _joined_where_small(pieces: Iterable[bytes | memoryview]) -> list[bytes | memoryview]:
    """The same bytes in fewer pieces: each costs a call to hash and one to write."""
    out: list[bytes | memoryview] = []
    for are_small, group in itertools.groupby(pieces, lambda piece: len(piece) < _SMALL_BYTES):
        some = list(group)
        out += [b"".join(some)] if are_small else some
    return out


class _Sink:
    """Takes what pyarrow writes as it comes, the buffers of a batch without a copy."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[memoryview] = []
        self._starts: list[int] = []
        self._end = 0

    def write(self, data: bytes | pa.Buffer) -> int:
        piece = memoryview(data).cast("B")
        if len(piece):
            self._pieces.append(piece)
            self._starts.append(self._end)
            self._end += len(piece)
        return len(piece)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""

    def content(self, begin: int, end: int) -> memoryview:
        """What was written from one place up to another; a copy only if it came in several pieces."""
        if begin == end:
            return memoryview(b"")
        first = bisect.bisect_right(self._starts, begin) - 1
        last = bisect.bisect_left(self._starts, end)
        start = self._starts[first]
        pieces = self._pieces[first:last]
        whole = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
        return whole[begin - start : end - start]

    def metadata_bytes(self, message: int) -> int:
        """Those of the message that begins there, prefix left out."""
        size: int = flatbuffer.INT32.unpack_from(self.content(message + 4, message + _PREFIX_BYTES))[0]
        return size

    def message_end(self, message: int) -> int:
        """The end of a message without a body."""
        return message + _PREFIX_BYTES + self.metadata_bytes(message)


class Block(NamedTuple):
    """Where a file has a record batch.

    Attributes:
        offset: Of its message.
        metadata_bytes: Of the message's metadata.
        body_bytes: Of the rest.
    """

    offset: int
    metadata_bytes: int
    body_bytes: int


def file_end(schema: pa.Schema, blocks: Sequence[Block]) -> bytes:
    """What a file has behind its last record batch: the end of its stream, and its footer."""
    sink = io.BytesIO()
    with ipc.new_file(sink, schema) as writer:
        for _ in blocks:
            writer.write_batch(pa.RecordBatch.from_pylist([], schema))
    whole = memoryview(bytearray(sink.getvalue()))
    size_place = len(whole) - len(FILE_MAGIC) - flatbuffer.INT32.size
    begin = size_place - flatbuffer.INT32.unpack_from(whole, size_place)[0]
    footer = whole[begin:size_place]
    first, count = flatbuffer.vector(footer, flatbuffer.root_table(footer), _FOOTER_RECORD_BATCHES, _BLOCK.size)
    assert count == len(blocks)
    for index, block in enumerate(blocks):
        _BLOCK.pack_into(footer, first + index * _BLOCK.size, *block)
    return END_OF_STREAM + bytes(whole[begin:])


def _metadata(num_rows: int, nodes: npt.NDArray[np.int64], buffers: npt.NDArray[np.int64], body_bytes: int) -> bytes:
    """A record batch's metadata, with prefix and padding. A flatbuffer is built from its end."""
    builder = flatbuffers.Builder(1024)
    nodes_place, buffers_place = _pairs(builder, nodes), _pairs(builder, buffers)
    builder.StartObject(2)
    builder.PrependInt8Slot(0, _ZSTD, 0)
    compression_place = builder.EndObject()
    builder.StartObject(5)
    builder.PrependInt64Slot(0, num_rows, 0)
    builder.PrependUOffsetTRelativeSlot(1, nodes_place, 0)
    builder.PrependUOffsetTRelativeSlot(2, buffers_place, 0)
    builder.PrependUOffsetTRelativeSlot(3, compression_place, 0)
    record_batch = builder.EndObject()
    builder.StartObject(5)
    builder.PrependInt16Slot(0, _VERSION_5, 0)
    builder.PrependUint8Slot(1, _RECORD_BATCH, 0)
    builder.PrependUOffsetTRelativeSlot(2, record_batch, 0)
    builder.PrependInt64Slot(3, body_bytes, 0)
    builder.Finish(builder.EndObject())
    flat = bytes(builder.Output())
    padding = -len(flat) % _ALIGNMENT
    return b"".join([_CONTINUATION, flatbuffer.INT32.pack(len(flat) + padding), flat, bytes(padding)])


def _pairs(builder: flatbuffers.Builder, pairs: npt.NDArray[np.int64]) -> int:
    """A vector of structs of two numbers."""
    builder.StartVector(16, len(pairs), 8)
    for number in pairs.ravel()[::-1].tolist():
        builder.PrependInt64(number)
    return int(builder.EndVector())

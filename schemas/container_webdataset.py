"""The `webdataset` container: a part is a tar that any WebDataset reader can open.

Each row is two members, `<key>.<group>.arrow` (a one-row Arrow IPC stream with the row's whole content) and
`<key>.json` (what a person can read of it). A chunk is the run of members of its rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import Executor

import pyarrow as pa
from pyarrow import ipc

from schemas.arrow_messages import END_OF_STREAM, record_batch_message
from schemas.container_arrow import UNREADABLE, ChunkData, EncodedChunk, undecodable
from schemas.record_batch_sizes import require_small
from schemas.tar_members import TarMember, read_members, write_member

END_OF_ARCHIVE = b"\0" * 1024
"""How a part ends: two zero blocks."""

_ONE_THREAD = ipc.IpcReadOptions(use_threads=False)
"""For a single row: handing its few buffers to Arrow's threads takes longer than decompressing them."""


class WebDatasetWriter:
    """Encodes the chunks of tars. Threads may share it."""

    head = b""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema_message: bytes = schema.serialize().to_pybytes()
        self._group = schema.metadata[b"encode_once.group"].decode()

    def encode(self, batch: pa.RecordBatch, helpers: Executor | None = None) -> EncodedChunk:
        """The members of a chunk's rows."""
        members: list[bytes | memoryview] = []
        for index in range(batch.num_rows):
            row = batch.slice(index, 1)
            for_machines, for_people = member_names(row.column("key")[0].as_py(), self._group)
            members += write_member(for_machines, self._one_row_stream(row, helpers))
            members += write_member(for_people, readable_part(row))
        return EncodedChunk(members, sum(map(len, members)), 0)

    def tail(self, chunks: Iterable[tuple[int, EncodedChunk]]) -> bytes:  # noqa: ARG002 a tar has no table of contents
        """The end-of-archive blocks."""
        return END_OF_ARCHIVE

    def _one_row_stream(self, row: pa.RecordBatch, helpers: Executor | None) -> bytes:
        # Joined: views of a row would keep the memory of the whole chunk.
        return b"".join([self._schema_message, *record_batch_message(row, helpers).pieces, END_OF_STREAM])


def read_webdataset_chunk(
    data: ChunkData, schema: pa.Schema, *, max_rows: int, max_bytes: int, where: str
) -> pa.RecordBatch:
    """Decodes one chunk. The tar is not copied; its rows are, once, into one batch.

    Args:
        data: The chunk.
        schema: Of its part.
        max_rows: Rows that may be in it.
        max_bytes: What its rows may take, decoded.
        where: Names the chunk, for errors.

    Raises:
        DamagedDataError: The bytes are not the members of rows of this schema, or declare more than they may.
    """
    suffix = f".{schema.metadata[b'encode_once.group'].decode()}.arrow"
    buffer = pa.py_buffer(data)
    schema_bytes = ipc.read_message(schema.serialize()).metadata
    try:
        rows = []
        for number, member in enumerate(read_members(memoryview(buffer))):
            if number >= 2 * max_rows:
                raise ValueError(f"more than {2 * max_rows} members")
            if member.name.endswith(suffix):
                row = _read_row(buffer, member, schema, schema_bytes, max_bytes)
                max_bytes -= row.nbytes
                rows.append(row)
        return pa.Table.from_batches(rows, schema).combine_chunks().to_batches()[0]
    except UNREADABLE as error:
        raise undecodable(where, error) from error


def read_webdataset_head(data: bytes, *, where: str) -> pa.Schema:
    """The schema that the first row of a part states.

    Args:
        data: The part's first bytes; some 10 KB are enough, as a schema is at the head of its member.
        where: Names the part, for errors.

    Raises:
        DamagedDataError: There is no such row there.
    """
    try:
        member = next(read_members(memoryview(data), may_be_cut=True), None)
        if member is None or not member.name.endswith(".arrow"):
            raise ValueError(f"the first member is {member.name if member else 'absent'!r}, not a row")
        return ipc.read_schema(pa.py_buffer(data[member.data_start : member.data_start + member.size]))
    except UNREADABLE as error:
        raise undecodable(where, error) from error


def _read_row(
    data: pa.Buffer, member: TarMember, schema: pa.Schema, schema_bytes: pa.Buffer, max_bytes: int
) -> pa.RecordBatch:
    content = data[member.data_start : member.data_start + member.size]
    messages = ipc.MessageReader.open_stream(content)
    if not messages.read_next_message().metadata.equals(schema_bytes) and not ipc.read_schema(content).equals(schema):
        raise ValueError(f"{member.name} has another schema")
    require_small(messages.read_next_message(), max_bytes, max_rows=1)
    with ipc.open_stream(content, options=_ONE_THREAD) as reader:
        row = reader.read_next_batch()
    row.validate(full=True)
    if row.num_rows != 1:
        raise ValueError(f"{member.name} has {row.num_rows} rows")
    return row.replace_schema_metadata(schema.metadata)


def member_names(key: str, group: str) -> tuple[str, str]:
    """The names of a row's two members, in their order."""
    return f"{key}.{group}.arrow", f"{key}.json"


def readable_part(row: pa.RecordBatch) -> bytes:
    """The content of a row's `.json` member: all but the tensors. `row` is a batch of one."""
    readable = {}
    for field in row.schema:
        cell = row.column(field.name)[0]
        if not pa.types.is_struct(field.type):
            readable[field.name] = cell.as_py()
            continue
        names = [inner.name for inner in field.type if pa.types.is_primitive(inner.type)]
        if names:
            readable[field.name] = {name: cell[name].as_py() for name in names} if cell.is_valid else None
    return json.dumps(readable, ensure_ascii=False, sort_keys=True).encode()

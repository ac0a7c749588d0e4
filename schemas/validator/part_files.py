"""Part files: their head and tail, and all their bytes against the ledger's checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyarrow import ipc

from schemas.container_arrow import UNREADABLE, read_arrow_head
from schemas.container_webdataset import END_OF_ARCHIVE, read_webdataset_head
from schemas.group_schema import schema_of
from schemas.latent_manifest import LatentManifest
from schemas.ledger import Chunk, LedgerRecord, Part, part_path
from schemas.limits import MAX_PART_HEAD_BYTES
from schemas.manifest import Manifest
from schemas.parts import chunk_checksum
from schemas.storage import Store
from schemas.storage_errors import too_large
from schemas.validator.codes import Code
from schemas.validator.findings import Findings
from schemas.validator.records import chunk_table_problem
from schemas.validator.sized_file import SizedFile

_STEP_BYTES = 8 * 1024**2


def check_head_and_tail(
    store: Store, manifest: Manifest | LatentManifest, record: LedgerRecord, part: Part, findings: Findings
) -> None:
    """Reads a part's first and last bytes: whose it is, and whether it ends as its container does.

    The part is of the right size, and its chunk table is in order.
    """
    path = part_path(record.shard, part.name)
    arrow = manifest.layout.container == "arrow"
    head_bytes = part.chunks[0].offset if arrow else min(MAX_PART_HEAD_BYTES, part.num_bytes)
    expected = schema_of(manifest, record.group, record.shard)
    known = [expected]
    end = part.chunks[-1].offset + part.chunks[-1].num_bytes
    with findings.guard(path, instead=Code.PART_HEAD, offset=0):
        _require_at_most(head_bytes, MAX_PART_HEAD_BYTES, path)
        head = store.get_range(path, 0, head_bytes)
        found = read_arrow_head(head, where=path) if arrow else read_webdataset_head(head, where=path)
        if not found.equals(expected, check_metadata=True):
            difference = _difference(expected, found)
            findings.add(Code.PART_SCHEMA, path, expected=difference[0], actual=difference[1], offset=0)
            known.append(found)  # that the footer says the same is no second finding
    with findings.guard(path, instead=Code.PART_TAIL, offset=end):
        # A footer repeats the schema, and has 24 bytes for each chunk.
        _require_at_most(part.num_bytes - end, MAX_PART_HEAD_BYTES + 24 * len(part.chunks), path)
        tail = store.get_range(path, end, part.num_bytes - end)
        problem = _arrow_tail(tail, part, known) if arrow else _tar_tail(tail)
        if problem is not None:
            findings.add(Code.PART_TAIL, path, expected=problem[0], actual=problem[1], offset=end)


def _require_at_most(num_bytes: int, max_bytes: int, path: str) -> None:
    if num_bytes > max_bytes:
        raise too_large(path, max_bytes, num_bytes)


def _difference(expected: pa.Schema, found: pa.Schema) -> tuple[str, str]:
    """The first thing in which two schemas differ."""
    left, right = expected.metadata or {}, found.metadata or {}
    for name in sorted(left.keys() | right.keys()):
        if left.get(name) != right.get(name):
            return f"{_text(name)} = {_text(left.get(name))}", f"{_text(name)} = {_text(right.get(name))}"
    for index in range(max(len(expected), len(found))):
        fields = [schema.field(index) if index < len(schema) else None for schema in (expected, found)]
        # pyarrow cannot compare a field with None.
        if any(field is None for field in fields) or fields[0] != fields[1]:
            return f"column {index}: {fields[0]}", f"column {index}: {fields[1]}"
    return "the schema of SPEC.md section 4", "field metadata beside it"


def _text(value: bytes | None) -> str:
    return "(absent)" if value is None else value[:200].decode(errors="replace")


def _tar_tail(tail: bytes) -> tuple[str, str] | None:
    if tail == END_OF_ARCHIVE:
        return None
    return "two zero blocks, 1024 bytes", f"{len(tail)} bytes, {len(tail) - tail.count(0)} of them not zero"


def _arrow_tail(tail: bytes, part: Part, schemas: Sequence[pa.Schema]) -> tuple[str, str] | None:
    """Opens a file of which only the tail is there, as other tools would: by its footer."""
    expected = f"an end marker and a footer of {len(part.chunks)} record batches"
    if not tail.startswith(b"\xff\xff\xff\xff\0\0\0\0"):
        return expected, f"no end marker, but {tail[:8]!r}"
    try:
        reader = ipc.open_file(pa.PythonFile(_TailOnly(tail, part.num_bytes), "r"))
    except UNREADABLE as error:
        return expected, f"{type(error).__name__}: {str(error)[:200]}"
    if reader.num_record_batches != len(part.chunks):
        return expected, f"a footer of {reader.num_record_batches} record batches"
    if not any(reader.schema.equals(schema, check_metadata=True) for schema in schemas):
        left, right = _difference(schemas[0], reader.schema)
        return f"in the footer, {left}", right
    return None


class _TailOnly(SizedFile):
    """A file that is all zeros but for its magic and its tail."""

    def __init__(self, tail: bytes, num_bytes: int) -> None:
        super().__init__(num_bytes)
        self._tail = tail

    def range(self, start: int, stop: int) -> bytes:
        tail_start = self._num_bytes - len(self._tail)
        if start >= tail_start:
            return self._tail[start - tail_start : stop - tail_start]
        if stop - start > MAX_PART_HEAD_BYTES:
            raise ValueError(f"a footer that declares {stop - start} bytes, more than there is behind the last chunk")
        zeros = b"ARROW1\0\0"[start : min(stop, 8)] if start < 8 else b""
        return zeros.ljust(stop - start, b"\0")


def read_checked(
    store: Store, record: LedgerRecord, part: Part, findings: Findings
) -> Iterator[tuple[Chunk, bytes | None]]:
    """Reads a part once, from its first byte to its last, and compares it with the ledger's checksums.

    Yields:
        Every chunk with its bytes, None if they are not what was written.
    """
    path = part_path(record.shard, part.name)
    hasher = hashlib.sha256()
    chunks = () if chunk_table_problem(part) else part.chunks
    position = 0
    for chunk in chunks:
        for data in _read(store, path, position, chunk.offset):
            hasher.update(data)
        data = store.get_range(path, chunk.offset, chunk.num_bytes)
        hasher.update(data)
        position = chunk.offset + chunk.num_bytes
        actual = chunk_checksum(data)
        if actual != chunk.xxh3_64:
            expected = f"xxh3_64 {chunk.xxh3_64}"
            findings.add(Code.CHUNK_CHECKSUM, path, expected=expected, actual=f"xxh3_64 {actual}", offset=chunk.offset)
        yield chunk, data if actual == chunk.xxh3_64 else None
    for data in _read(store, path, position, part.num_bytes):
        hasher.update(data)
    if hasher.hexdigest() != part.sha256:
        actual = f"sha256 {hasher.hexdigest()}"
        findings.add(Code.PART_CHECKSUM, path, expected=f"sha256 {part.sha256}", actual=actual)


def _read(store: Store, path: str, start: int, end: int) -> Iterator[bytes]:
    for offset in range(start, end, _STEP_BYTES):
        yield store.get_range(path, offset, min(_STEP_BYTES, end - offset))

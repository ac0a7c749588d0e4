"""The rows of a part, chunk by chunk: keys, members, and what their kind of group asks for."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pyarrow as pa

from schemas.container_webdataset import member_names, readable_part
from schemas.group_schema import schema_of
from schemas.latent_manifest import LatentManifest
from schemas.ledger import Chunk, LedgerRecord, Part, part_path
from schemas.manifest import Manifest
from schemas.parts import read_chunk
from schemas.tar_members import TarMember, read_members
from schemas.validator.batch_rows import BatchRows, Stats, indices
from schemas.validator.caption_rows import CaptionRows
from schemas.validator.codes import Code
from schemas.validator.findings import Findings
from schemas.validator.latent_rows import LatentRowsChecker


@dataclass
class PartRows:
    """What the rows of a part add up to.

    Attributes:
        complete: False if a chunk could not be decoded; nothing can be added up then.
        keys: In row order.
        null_rows: (row in the shard, key) of every null row.
        stats: As in the record, over these rows.
    """

    complete: bool = True
    keys: list[str] = field(default_factory=list)
    null_rows: list[tuple[int, str]] = field(default_factory=list)
    stats: dict[str, Stats] = field(default_factory=dict)


class RowChecker:
    """Checks the chunks of one part as they are read.

    Args:
        manifest: The manifest of the record's kind of group.
        record: The record of the part.
        part: The part.
        first_row: Rows of the shard before it.
        findings: Where to.
    """

    def __init__(
        self,
        manifest: Manifest | LatentManifest,
        record: LedgerRecord,
        part: Part,
        first_row: int,
        findings: Findings,
    ) -> None:
        self._batch_rows: BatchRows
        if isinstance(manifest, LatentManifest):
            self._batch_rows = LatentRowsChecker(manifest.latents, self._add)
        else:
            self._batch_rows = CaptionRows(manifest.captions, self._add)
        self.rows = PartRows(stats=self._batch_rows.stats())
        self._manifest = manifest
        self._record = record
        self._path = part_path(record.shard, part.name)
        self._schema = schema_of(manifest, record.group, record.shard)
        self._next_row = first_row
        self._findings = findings

    def check(self, chunk: Chunk, data: bytes | None) -> None:
        """Decodes a chunk and checks its rows; None stands for a chunk with a wrong checksum."""
        first_row = self._next_row
        self._next_row += chunk.num_rows
        if data is None:
            self.rows.complete = False
            return
        done = False
        with self._findings.guard(self._path, offset=chunk.offset):
            batch = read_chunk(
                data,
                self._manifest.layout.container,
                self._schema,
                # Not the chunk's own, so that a chunk of other rows than its record says is named as that.
                max_rows=self._manifest.layout.chunk_rows,
                max_row_bytes=self._manifest.row_bytes,
                where=self._path,
            )
            if batch.num_rows == chunk.num_rows:
                self._check_batch(batch, first_row)
                if self._manifest.layout.container == "webdataset":
                    self._check_members(data, batch, chunk)
                done = True
            else:
                rows = f"{batch.num_rows} rows"
                self._findings.add(
                    Code.CHUNK_ROWS, self._path, expected=f"{chunk.num_rows} rows", actual=rows, offset=chunk.offset
                )
        self.rows.complete &= done

    def _add(self, code: Code, expected: str, actual: str, row: int, key: str | None) -> None:
        self._findings.add(code, self._path, expected=expected, actual=actual, row=row, key=key)

    def _check_batch(self, batch: pa.RecordBatch, first_row: int) -> None:
        stored_keys: list[str | None] = batch.column("key").to_pylist()
        for row in (first_row + index for index, key in enumerate(stored_keys) if key is None):
            self._add(Code.VALUE_NULL, "a key", "null", row, None)
        keys = [key or "" for key in stored_keys]
        self.rows.keys += keys
        encoded = self._batch_rows.check(batch, keys, first_row)
        self.rows.null_rows += [(first_row + index, keys[index]) for index in indices(~encoded)]
        self.rows.stats = self._batch_rows.stats()

    def _check_members(self, data: bytes, batch: pa.RecordBatch, chunk: Chunk) -> None:
        """What another reader of the tar sees, names and .json members, is what the rows say."""
        members = list(itertools.islice(read_members(memoryview(data)), 2 * batch.num_rows + 1))
        keys = batch.column("key").to_pylist()
        wanted = [name for key in keys for name in member_names(str(key), self._record.group)]
        for index in range(max(len(members), len(wanted))):
            member = members[index] if index < len(members) else None
            name = wanted[index] if index < len(wanted) else None
            problem = _member_problem(member, name, index, data, batch)
            if problem is not None:
                offset = chunk.offset + (member.start if member is not None else chunk.num_bytes)
                expected, actual = problem
                self._findings.add(Code.MEMBER_MISMATCH, self._path, expected=expected, actual=actual, offset=offset)
                return


def _member_problem(
    member: TarMember | None, name: str | None, index: int, data: bytes, batch: pa.RecordBatch
) -> tuple[str, str] | None:
    actual = "no member" if member is None else f"member {member.name!r}"
    if member is None or name is None or member.name != name:
        return "no member" if name is None else f"member {name!r}", actual
    if index % 2 == 0:
        return None  # the row itself, decoded already
    content = data[member.data_start : member.data_start + member.size]
    if content == readable_part(batch.slice(index // 2, 1)):
        return None
    return f"{actual} to say what its row says", content[:200].decode(errors="backslashreplace")

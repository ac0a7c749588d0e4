"""The rows of a part: keys, null rows, token counts, tensors and members, chunk by chunk."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.arrow_schema import caption_schema
from schemas.container_webdataset import member_names, readable_part
from schemas.identity import ENCODER_NAMES, EncoderIdentity
from schemas.ledger import Chunk, EncoderStats, LedgerRecord, Part, part_path
from schemas.manifest import Manifest
from schemas.parts import read_chunk
from schemas.planes import STORAGE_DTYPES
from schemas.validator.codes import Code
from schemas.validator.findings import Findings
from schemas.validator.tensors import TensorColumn, tensor_problems

_TENSOR_CODES = {
    "size": Code.TENSOR_SIZE,
    "not-finite": Code.TENSOR_NOT_FINITE,
    "constant": Code.TENSOR_CONSTANT,
}


@dataclass
class PartRows:
    """What the rows of a part add up to.

    Attributes:
        complete: False if a chunk could not be decoded; nothing can be added up then.
        keys: In row order.
        null_rows: (row in the shard, key) of every null row.
        stats: Per encoder, num_tokens, num_truncated and raw_bytes.
    """

    complete: bool = True
    keys: list[str] = field(default_factory=list)
    null_rows: list[tuple[int, str]] = field(default_factory=list)
    stats: dict[str, list[int]] = field(default_factory=lambda: {name: [0, 0, 0] for name in ENCODER_NAMES})


class RowChecker:
    """Checks the chunks of one part as they are read.

    Args:
        manifest: The dataset's manifest.
        record: The record of the part.
        part: The part.
        first_row: Rows of the shard before it.
        findings: Where to.
    """

    def __init__(
        self, manifest: Manifest, record: LedgerRecord, part: Part, first_row: int, findings: Findings
    ) -> None:
        self.rows = PartRows()
        self._manifest = manifest
        self._record = record
        self._path = part_path(record.shard, part.name)
        self._schema = caption_schema(manifest, record.group, record.shard)
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
            batch = read_chunk(data, self._manifest.layout.container, self._schema, where=self._path)
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
        valid = {name: _valid(batch.column(name)) for name in ENCODER_NAMES}
        encoded = np.any(list(valid.values()), axis=0)
        for index in _indices(encoded & ~np.all(list(valid.values()), axis=0)):
            states = ", ".join(f"{name} {'encoded' if valid[name][index] else 'null'}" for name in ENCODER_NAMES)
            self._add(Code.ROW_PARTLY_NULL, "all encoders or none", states, first_row + index, keys[index])
        for index in _indices(encoded & ~_valid(batch.column("caption"))):
            self._add(Code.VALUE_NULL, "the caption of an encoded row", "null", first_row + index, keys[index])
        self.rows.keys += keys
        self.rows.null_rows += [(first_row + index, keys[index]) for index in _indices(~encoded)]
        for name in ENCODER_NAMES:
            self._check_encoder(self._manifest.captions.encoder(name), batch.column(name), keys, first_row)

    def _check_encoder(
        self, identity: EncoderIdentity, column: pa.StructArray, keys: Sequence[str], first_row: int
    ) -> None:
        name, valid = identity.name, _valid(column)
        for field_name in ("num_tokens", "truncated"):
            for index in _indices(valid & ~_valid(column.field(field_name))):
                self._add(Code.VALUE_NULL, f"{name}.{field_name}", "null", first_row + index, keys[index])
        num_tokens = valid * column.field("num_tokens").fill_null(0).to_numpy().astype(np.int64)
        cut = valid & column.field("truncated").fill_null(False).to_numpy(zero_copy_only=False).astype(bool)
        limit = identity.max_tokens
        wrong = valid & ((num_tokens < 1) | (num_tokens > limit) | (cut & (num_tokens != limit)))
        for index in _indices(wrong):
            expected = f"{name}: {limit} tokens, as it is truncated" if cut[index] else f"{name}: 1 to {limit} tokens"
            self._add(Code.NUM_TOKENS, expected, f"{num_tokens[index]} tokens", first_row + index, keys[index])
        stored = valid * limit if identity.padding == "max_length" else num_tokens
        raw_bytes = 0
        for tensor in _tensor_columns(identity, column, stored.astype(np.int64), valid.astype(np.int64)):
            raw_bytes += int(tensor.vectors.sum()) * tensor.width * STORAGE_DTYPES[identity.storage_dtype].itemsize
            for found in tensor_problems(tensor, identity.storage_dtype):
                expected = f"{name}.{found.expected}"
                self._add(_TENSOR_CODES[found.kind], expected, found.actual, first_row + found.row, keys[found.row])
        for position, value in enumerate((int(num_tokens.sum()), int(cut.sum()), raw_bytes)):
            self.rows.stats[name][position] += value

    def _check_members(self, data: bytes, batch: pa.RecordBatch, chunk: Chunk) -> None:
        """What another reader of the tar sees, names and .json members, is what the rows say."""
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            members = archive.getmembers()
        keys = batch.column("key").to_pylist()
        wanted = [name for key in keys for name in member_names(str(key), self._record.group)]
        for index in range(max(len(members), len(wanted))):
            member = members[index] if index < len(members) else None
            name = wanted[index] if index < len(wanted) else None
            problem = _member_problem(member, name, index, data, batch)
            if problem is not None:
                offset = chunk.offset + (member.offset if member is not None else chunk.num_bytes)
                expected, actual = problem
                self._findings.add(Code.MEMBER_MISMATCH, self._path, expected=expected, actual=actual, offset=offset)
                return


def _member_problem(
    member: tarfile.TarInfo | None, name: str | None, index: int, data: bytes, batch: pa.RecordBatch
) -> tuple[str, str] | None:
    actual = "no member" if member is None else f"member {member.name!r}"
    if member is None or name is None or member.name != name:
        return "no member" if name is None else f"member {name!r}", actual
    if index % 2 == 0:
        return None  # the row itself, decoded already
    content = data[member.offset_data : member.offset_data + member.size]
    if content == readable_part(batch.slice(index // 2, 1)):
        return None
    return f"{actual} to say what its row says", content[:200].decode(errors="backslashreplace")


def check_stats(record: LedgerRecord, path: str, stats: dict[str, list[int]], findings: Findings) -> None:
    """Compares a record's statistics with those of its rows."""
    if sorted(record.stats) != sorted(ENCODER_NAMES):
        expected = f"statistics of {', '.join(ENCODER_NAMES)}"
        findings.add(Code.STATS_MISMATCH, path, expected=expected, actual=", ".join(record.stats) or "none")
        return
    for name, (num_tokens, num_truncated, raw_bytes) in stats.items():
        actual = EncoderStats(num_tokens=num_tokens, num_truncated=num_truncated, raw_bytes=raw_bytes)
        if record.stats[name] != actual:
            findings.add(
                Code.STATS_MISMATCH, path, expected=f"{name}: {record.stats[name]}", actual=f"in the rows: {actual}"
            )


def _tensor_columns(
    identity: EncoderIdentity,
    column: pa.StructArray,
    stored: npt.NDArray[np.int64],
    one: npt.NDArray[np.int64],
) -> list[TensorColumn]:
    columns = [TensorColumn("hidden", column.field("hidden"), identity.hidden_size, stored)]
    if identity.pooled_size is not None:
        columns.append(TensorColumn("pooled", column.field("pooled"), identity.pooled_size, one))
        columns.append(TensorColumn("eos", column.field("eos"), identity.hidden_size, one))
    return columns


def _valid(column: pa.Array) -> npt.NDArray[np.bool_]:
    valid: npt.NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False).astype(bool)
    return valid


def _indices(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Where a mask is True."""
    found: list[int] = np.flatnonzero(mask).tolist()
    return found

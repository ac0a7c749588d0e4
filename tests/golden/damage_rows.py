"""Rows that cannot be real, under checksums that are right."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import pyarrow as pa

from schemas.rejects import Reject
from tests.golden.damage_case import Cases
from tests.golden.damage_dataset import Batches, Victim

case = Cases()


def _cell(encoder: str, field: str, value: object, row: int = 1) -> Callable[[Batches], Batches]:
    """Changes one value of the first chunk."""
    return lambda batches: [_with(batches[0], encoder, field, value, row), *batches[1:]]


def _with(batch: pa.RecordBatch, encoder: str, field: str, value: object, row: int) -> pa.RecordBatch:
    rows: list[dict[str, Any]] = batch.column(encoder).to_pylist()
    rows[row] = {**rows[row], field: value}
    return replaced(batch, encoder, pa.array(rows, batch.schema.field(encoder).type))


def replaced(batch: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    columns = [column if field.name == name else batch.column(field.name) for field in batch.schema]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def planes(values: np.ndarray) -> dict[str, bytes]:
    pairs = values.astype(ml_dtypes.bfloat16).reshape(-1).view(np.uint8).reshape(-1, 2)
    return {"p0": pairs[:, 1].tobytes(), "p1": pairs[:, 0].tobytes()}


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


@case("values", "tensor-not-finite")
def nan_in_hidden(victim: Victim) -> None:
    values = _random(4, 8)
    values[2, 3] = np.nan
    victim.rewrite(_cell("t5", "hidden", planes(values)))


@case("values", "tensor-not-finite")
def infinity_in_pooled(victim: Victim) -> None:
    values = _random(4)
    values[0] = -np.inf
    victim.rewrite(_cell("clip_l", "pooled", planes(values)))


@case("values", "tensor-constant")
def all_zero_hidden(victim: Victim) -> None:
    victim.rewrite(_cell("clip_g", "hidden", planes(np.zeros((4, 6)))))


@case("values", "tensor-constant")
def zero_vector_of_one_token(victim: Victim) -> None:
    values = _random(4, 6)
    values[3] = 0.0
    values[3, ::2] = -0.0
    victim.rewrite(_cell("clip_g", "hidden", planes(values)))


@case("values", "tensor-constant")
def constant_eos(victim: Victim) -> None:
    victim.rewrite(_cell("clip_g", "eos", planes(np.full(6, 0.5))))


@case("values", "tensor-constant")
def the_same_vector_for_all_tokens(victim: Victim) -> None:
    victim.rewrite(_cell("t5", "hidden", planes(np.tile(_random(8), (4, 1)))))


@case("values", "tensor-size")
def hidden_of_fewer_tokens(victim: Victim) -> None:
    victim.rewrite(_cell("t5", "hidden", planes(_random(3, 8))))


@case("values", "tensor-size")
def planes_of_two_lengths(victim: Victim) -> None:
    cell = planes(_random(4, 8))
    victim.rewrite(_cell("t5", "hidden", cell | {"p1": cell["p1"][:-1]}))


@case("values", "tensor-size")
def null_row_with_planes(victim: Victim) -> None:
    """The bytes of a row that its validity hides."""

    def change(batches: Batches) -> Batches:
        field = batches[1].schema.field("t5")
        shown = batches[1].column("t5")[0].as_py()
        full = pa.array([shown, shown], field.type)
        children = [full.field(index) for index in range(field.type.num_fields)]
        hidden = pa.StructArray.from_arrays(children, fields=list(field.type), mask=pa.array([False, True]))
        return [batches[0], replaced(batches[1], "t5", hidden), *batches[2:]]

    victim.rewrite(change)


@case("values", "num-tokens", "stats-mismatch")
def no_tokens(victim: Victim) -> None:
    victim.rewrite(_cell("clip_l", "num_tokens", 0))


@case("values", "num-tokens", "stats-mismatch")
def more_tokens_than_the_limit(victim: Victim) -> None:
    victim.rewrite(_cell("clip_l", "num_tokens", 5))


@case("values", "num-tokens", "stats-mismatch")
def truncated_but_short(victim: Victim) -> None:
    def change(batches: Batches) -> Batches:
        return _cell("clip_l", "truncated", True)(_cell("clip_l", "num_tokens", 2)(batches))

    victim.rewrite(change)


@case("values", "key-duplicate")
def duplicate_keys(victim: Victim) -> None:
    def change(batches: Batches) -> Batches:
        keys = pa.array(["a00000", "a00000"], pa.large_string())
        return [replaced(batches[0], "key", keys), *batches[1:]]

    for group in ("txt", "json.x"):
        victim.rewrite(change, group=group)


@case("values", "value-null")
def encoded_row_without_caption(victim: Victim) -> None:
    def change(batches: Batches) -> Batches:
        captions = pa.array([None, "a caption"], pa.large_string())
        return [replaced(batches[0], "caption", captions), *batches[1:]]

    victim.rewrite(change)


@case("values", "row-partly-null", "stats-mismatch")
def row_null_for_one_encoder(victim: Victim) -> None:
    def change(batches: Batches) -> Batches:
        rows = batches[0].column("t5").to_pylist()
        column = pa.array([rows[0], None], batches[0].schema.field("t5").type)
        return [replaced(batches[0], "t5", column), *batches[1:]]

    victim.rewrite(change)


def _null_first_row(batches: Batches) -> Batches:
    first = batches[0]
    for name in ("clip_l", "clip_g", "t5"):
        rows = first.column(name).to_pylist()
        first = replaced(first, name, pa.array([None, rows[1]], first.schema.field(name).type))
    return [first, *batches[1:]]


@case("values", "rejects-rows", "encoded-count", "stats-mismatch")
def null_row_without_reject(victim: Victim) -> None:
    victim.rewrite(_null_first_row)


@case("values", "rejects-rows")
def reject_of_an_encoded_row(victim: Victim) -> None:
    rejects = [Reject(key=key, code="caption-missing", reason="no caption") for key in ("a00001", "a00003")]
    victim.reseal(rejects=victim.write_rejects(rejects), num_rejects=2, num_inputs=6)


@case("values", "rejects-rows")
def two_rejects_of_one_null_row(victim: Victim) -> None:
    rejects = [Reject(key="a00003", code=code, reason="no caption") for code in ("caption-missing", "caption-empty")]
    victim.reseal(rejects=victim.write_rejects(rejects), num_rejects=2, num_inputs=6)


@case("values", "rejects-count")
def more_rejects_than_recorded(victim: Victim) -> None:
    honest = Reject(key="a00003", code="caption-missing", reason="no caption")
    other = Reject(key="a00001", code="duplicate-member", reason="a second caption", has_row=False)
    victim.reseal(rejects=victim.write_rejects([honest, other]))


@case("values", "rejects-unreadable")
def rejects_that_are_none(victim: Victim) -> None:
    entry = victim.write_rejects([Reject(key="a00003", code="caption-missing", reason="no caption")])
    path = victim.folder / "rejects/txt/a/0000.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"key"', b'"kex"'))
    victim.reseal(rejects=entry | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})


@case("values", "chunk-undecodable")
def chunk_that_is_none(victim: Victim) -> None:
    data = bytearray(victim.part().read_bytes())
    chunk = victim.record().parts[0].chunks[1]
    data[chunk.offset : chunk.offset + chunk.num_bytes] = b"\xa5" * chunk.num_bytes
    victim.reseal_part(bytes(data))


@case("values", "chunk-undecodable")
def tensor_offsets_over_32_bits(victim: Victim) -> None:
    """A chunk whose last tensor is said to end 2**33 bytes on, far beyond the chunk."""
    _patch_offsets(victim, 2**33)


@case("values", "chunk-undecodable")
def tensor_offsets_that_wrap_around(victim: Victim) -> None:
    _patch_offsets(victim, -(2**63) + 32)


def _patch_offsets(victim: Victim, end: int) -> None:
    """Writes the rows without compression, so that offsets can be found, and changes where t5's second plane ends."""
    with mock.patch("schemas.compression.compress", lambda buffers, _helpers: [None] * len(buffers)):
        victim.rewrite(lambda batches: batches)
    row_bytes = 4 * 8  # of one plane of t5's hidden
    honest = [0, row_bytes, 2 * row_bytes] if victim.is_arrow else [0, row_bytes]
    found, wanted = (struct.pack(f"<{len(honest)}q", *ends) for ends in (honest, [*honest[:-1], end]))
    data = victim.part().read_bytes()
    assert found in data
    victim.reseal_part(data.replace(found, wanted, 1))


@case("values", "member-mismatch", containers=("webdataset",))
def json_member_of_another_caption(victim: Victim) -> None:
    data = victim.part().read_bytes()
    assert b'"a picture of 1' in data
    victim.reseal_part(data.replace(b'"a picture of 1', b'"a picture of 9', 1))


@case("values", "member-mismatch", containers=("webdataset",))
def member_of_another_name(victim: Victim) -> None:
    """What webdataset's own reader would group with another sample."""
    data = bytearray(victim.part().read_bytes())
    start = data.index(b"a00001.json\0")
    data[start : start + 6] = b"a00002"
    header = data[start : start + 512]
    header[148:156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    victim.reseal_part(bytes(data))

"""Datasets that mean harm to whoever reads them, sealed as only somebody who can write all of their objects could."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from schemas.arrow_schema import caption_schema
from schemas.documents import seal
from schemas.index import dump_index
from schemas.manifest import Container
from schemas.parts import chunk_checksum
from schemas.record_batch_sizes import declared
from schemas.storage import Store
from schemas.tar_members import read_members
from tests.datasets import make_manifest, samples, write_dataset
from tests.fuzz.containers import reseal_index
from tests.golden.tar_bytes import base256, header, member
from tests.security.cases import Collected
from tests.security.hostile_tars import PICKLE

case = Collected()
RECORD = "ledger/txt/s.json"
NUM_ROWS = 4


def _dataset(folder: Path, container: Container = "arrow") -> Store:
    manifest = make_manifest(container, chunk_rows=NUM_ROWS, part_bytes=10**6)
    return write_dataset(str(folder), manifest, {"txt": {"s": samples(NUM_ROWS)}})


def _reseal(store: Store, change: Callable[[dict[str, Any]], None]) -> None:
    """Another record, with right digests, in the ledger and in the index."""
    body = json.loads(store.get(RECORD))
    del body["sha256"]
    change(body)
    data = seal(body)
    store.replace(RECORD, data)
    store.replace("index.arrow", dump_index({("txt", body["shard"]): data}, body["identity_sha256"], where="x"))


def _put_chunk(store: Store, container: Container, change: Callable[[bytes], bytes]) -> None:
    """Another chunk in the part, with right checksums."""
    record = json.loads(store.get(RECORD))
    (part,) = record["parts"]
    (chunk,) = part["chunks"]
    path = f"shards/s/{part['name']}"
    data = store.get(path)
    end = chunk["offset"] + chunk["num_bytes"]
    changed = change(data[chunk["offset"] : end])
    whole = data[: chunk["offset"]] + changed + data[end:]
    store.replace(path, whole)
    facts = {"num_bytes": len(changed), "xxh3_64": chunk_checksum(changed)}
    new = part | {"num_bytes": len(whole), "chunks": [chunk | facts]}
    _reseal(store, lambda body: body.update(parts=[new]))


def _declare(data: bytes, number: int) -> bytes:
    """A record batch message of which every compressed buffer declares so many bytes."""
    message = ipc.read_message(data)
    start = len(data) - message.body.size
    found = bytearray(data)
    for offset, length in declared(memoryview(message.metadata)).buffers.tolist():
        if length:
            found[start + offset : start + offset + 8] = number.to_bytes(8, "little")
    return bytes(found)


def _in_row(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A run of tar members, the batch of the first row changed."""
    first = next(read_members(memoryview(data)))
    content = data[first.data_start : first.data_start + first.size]
    schema_bytes = 8 + int.from_bytes(content[4:8], "little")
    changed = content[:schema_bytes] + change(content[schema_bytes:])
    return data[: first.data_start] + changed + data[first.data_start + first.size :]


@case(validator="chunk-undecodable", trainer="chunk-undecodable")
def buffers_that_declare_a_petabyte_arrow(folder: Path) -> None:
    _put_chunk(_dataset(folder), "arrow", lambda data: _declare(data, 2**50))


@case(validator="chunk-undecodable", trainer="chunk-undecodable")
def buffers_that_declare_a_petabyte_webdataset(folder: Path) -> None:
    _put_chunk(
        _dataset(folder, "webdataset"), "webdataset", lambda data: _in_row(data, lambda row: _declare(row, 2**50))
    )


@functools.cache
def _bomb() -> bytes:
    """A chunk of 4 rows, small, that is 2 GiB of zeros when it is decompressed; nothing in it is a lie."""
    schema = caption_schema(make_manifest("arrow", chunk_rows=NUM_ROWS, part_bytes=10**6), "txt", "s")
    zeros = pa.py_buffer(np.zeros(2**30, np.uint8))
    offsets = pa.py_buffer(np.array([0, 2**30, 2**30, 2**30, 2**30], np.int64))
    plane = pa.Array.from_buffers(pa.large_binary(), NUM_ROWS, [None, offsets, zeros])
    columns: list[pa.Array] = [pa.array(list("abcd"), pa.large_string()), pa.array(list("abcd"), pa.large_string())]
    for name in schema.names[2:]:
        kind = schema.field(name).type
        tensor = pa.StructArray.from_arrays([plane, plane], fields=list(kind.field("hidden").type))
        empty = pa.nulls(NUM_ROWS, pa.large_binary()).fill_null(b"")
        small = pa.StructArray.from_arrays([empty, empty], fields=list(kind.field("hidden").type))
        numbers = [pa.array([1] * NUM_ROWS, pa.int32()), pa.array([False] * NUM_ROWS)]
        tensors = [tensor if name == "t5" else small, *[small] * (kind.num_fields - 3)]
        columns.append(pa.StructArray.from_arrays([*numbers, *tensors], fields=list(kind)))
    options = ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1), use_threads=False)
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, schema, options=options) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    data: bytes = sink.getvalue().to_pybytes()
    return data[8 + int.from_bytes(data[4:8], "little") : -8]


@case(validator="chunk-undecodable", trainer="chunk-undecodable")
def zstd_bomb_of_two_gigabytes(folder: Path) -> None:
    store = _dataset(folder)
    bomb = _bomb()
    _put_chunk(store, "arrow", lambda _: bomb)


@case(validator="chunk-undecodable", trainer="chunk-undecodable")
def tar_member_that_declares_a_terabyte(folder: Path) -> None:
    store = _dataset(folder, "webdataset")
    bad = header(b"00000.txt.arrow", 0, size_field=base256(2**40, 12))
    _put_chunk(store, "webdataset", lambda data: bad + data[512:])


@case(validator="chunk-undecodable", trainer="chunk-undecodable")
def tar_member_of_a_size_below_zero(folder: Path) -> None:
    """Python's tarfile goes round in circles over it (CVE-2025-8194)."""
    store = _dataset(folder, "webdataset")
    back = header(b"00000.txt.arrow", 0, size_field=(2**96 - 1024).to_bytes(12, "big"))
    _put_chunk(store, "webdataset", lambda data: member("a.json", b"{}") + back + data)


@case(validator="chunk-undecodable", trainer="chunk-undecodable")
def pickle_in_the_schema_of_a_row(folder: Path) -> None:
    """An extension type of pyarrow before version 14: a pickle, read with the schema."""
    kind = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": PICKLE}
    store = _dataset(folder, "webdataset")
    schema = caption_schema(make_manifest("webdataset"), "txt", "s")
    fields = [schema.field(0).with_metadata(kind), *list(schema)[1:-1], schema.field(1).with_name("t5")]
    head = pa.schema(fields, metadata=schema.metadata).serialize().to_pybytes()

    def change(data: bytes) -> bytes:
        first = next(read_members(memoryview(data)))
        content = data[first.data_start : first.data_start + first.size]
        row = head + content[8 + int.from_bytes(content[4:8], "little") :]
        return member(first.name, row) + data[first.data_start + first.size + -first.size % 512 :]

    _put_chunk(store, "webdataset", change)


@case(validator="ledger-record-invalid", trainer="ledger-record-invalid")
def chunk_of_an_exabyte(folder: Path) -> None:
    _reseal(_dataset(folder), lambda body: body["parts"][0]["chunks"][0].update(num_bytes=2**60))


@case(validator="ledger-record-invalid", trainer="ledger-record-invalid")
def chunk_of_a_trillion_rows(folder: Path) -> None:
    def change(body: dict[str, Any]) -> None:
        body["parts"][0]["chunks"][0]["num_rows"] = body["num_rows"] = body["num_encoded"] = body["num_inputs"] = 2**40

    _reseal(_dataset(folder), change)


@case(validator="ledger-record-invalid", trainer="ledger-record-invalid")
def part_named_out_of_the_dataset(folder: Path) -> None:
    _reseal(_dataset(folder), lambda body: body["parts"][0].update(name="../../../../../../etc/passwd"))


@case(trainer="path-unsafe", validator="index-contradiction")
def shard_named_out_of_the_dataset(folder: Path) -> None:
    store = _dataset(folder)
    data = store.get(RECORD)
    store.replace("index.arrow", dump_index({("txt", "../../x"): data}, json.loads(data)["identity_sha256"], where="x"))


@case(validator="storage-failed", trainer="storage-failed")
def part_that_is_a_pipe(folder: Path) -> None:
    _dataset(folder)
    (part,) = (folder / "shards/s").iterdir()
    part.unlink()
    os.mkfifo(part)


@case(validator="storage-failed", trainer="storage-failed")
def part_that_is_a_link_to_a_device(folder: Path) -> None:
    _dataset(folder)
    (part,) = (folder / "shards/s").iterdir()
    part.unlink()
    part.symlink_to("/dev/zero")


def _huge(path: Path) -> None:
    """A file of a terabyte that takes no place on the disk."""
    with open(path, "ab") as file:
        file.truncate(2**40)


@case(validator="object-too-large", trainer="object-too-large")
def index_of_a_terabyte(folder: Path) -> None:
    _dataset(folder)
    _huge(folder / "index.arrow")


@case(validator="object-too-large", trainer="object-too-large")
def manifest_of_a_terabyte(folder: Path) -> None:
    _dataset(folder)
    _huge(folder / "manifest.json")


@case(validator="object-too-large", trainer="trained")
def record_of_a_terabyte(folder: Path) -> None:
    _dataset(folder)
    _huge(folder / RECORD)


@case(validator="chunk-table", trainer="object-too-short")
def part_whose_head_is_a_terabyte(folder: Path) -> None:
    store = _dataset(folder)
    (part,) = (folder / "shards/s").iterdir()
    _huge(part)
    chunk = json.loads(store.get(RECORD))["parts"][0]["chunks"][0]
    lie = {"num_bytes": 2**40, "chunks": [chunk | {"offset": 2**40 - 100}]}
    _reseal(store, lambda body: body["parts"][0].update(lie))


@case(validator="document-damaged", trainer="document-damaged")
def manifest_nested_a_million_deep(folder: Path) -> None:
    _dataset(folder)
    (folder / "manifest.json").write_bytes(b'{"sha256":"0","a":' + b"[" * 10**6)


@case(validator="document-damaged", trainer="document-damaged")
def manifest_of_a_million_lists(folder: Path) -> None:
    _dataset(folder)
    (folder / "manifest.json").write_bytes(b'{"sha256":"0","a":[' + b"[]," * 1_000_000 + b"[]]}")


@case(validator="manifest-invalid", trainer="manifest-invalid")
def manifest_of_tensors_of_a_terabyte(folder: Path) -> None:
    store = _dataset(folder)
    body = json.loads(store.get("manifest.json"))
    body.pop("sha256")
    body["captions"]["t5"]["hidden_size"] = 2**40
    store.replace("manifest.json", seal(body, for_people=True))


@case(validator="index-damaged", trainer="index-damaged")
def index_whose_buffers_declare_a_petabyte(folder: Path) -> None:
    store = _dataset(folder)
    honest = store.get("index.arrow")
    old = bytes(ipc.open_file(pa.py_buffer(honest)).schema.metadata[b"encode_once.sha256"])
    size = 16 + int.from_bytes(honest[12:16], "little")
    message = ipc.read_message(pa.py_buffer(honest)[size:])
    end = size + 8 + message.metadata.size + message.body.size
    store.replace("index.arrow", reseal_index(honest[:size] + _declare(honest[size:end], 2**50) + honest[end:], old))


@case(validator="source-unreachable", trainer="trained")
def source_at_a_server_inside_the_network(folder: Path) -> None:
    _reseal(_dataset(folder), lambda body: body["source"].update(url="http://127.0.0.1:9/latest/meta-data/x.tar"))


@case(validator="source-damaged", trainer="trained")
def source_that_goes_round_in_circles(folder: Path) -> None:
    store = _dataset(folder)
    tar = folder.parent / f"{folder.name}.tar"
    back = header(b"b.txt", 0, b"0", size_field=(2**96 - 1024).to_bytes(12, "big"))
    tar.write_bytes(member("a.txt", b"x") + back)
    _of_source(store, tar)


@case(validator="source-damaged", trainer="trained")
def source_whose_headers_take_quadratic_time(folder: Path) -> None:
    """A long run of digits in a pax header (CVE-2024-6232)."""
    store = _dataset(folder)
    tar = folder.parent / f"{folder.name}.tar"
    tar.write_bytes(member("PaxHeaders/0", b"1" * 900_000, b"x") + member("a.txt", b"x"))
    _of_source(store, tar)


@case(validator="source-damaged", trainer="trained")
def source_whose_name_declares_a_terabyte(folder: Path) -> None:
    store = _dataset(folder)
    tar = folder.parent / f"{folder.name}.tar"
    tar.write_bytes(header(b"././@LongLink", 0, b"L", size_field=base256(2**40, 12)) + bytes(10**6))
    _of_source(store, tar)


def _of_source(store: Store, tar: Path) -> None:
    info = Store(str(tar.parent)).head(tar.name)
    assert info is not None
    found = {"url": str(tar), "num_bytes": info.num_bytes, "e_tag": info.e_tag}
    _reseal(store, lambda body: body["source"].update(found))

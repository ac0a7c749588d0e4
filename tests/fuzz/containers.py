"""Targets that are Arrow: chunks of both containers, and the index. What they hold is touched, every byte of it."""

from __future__ import annotations

import functools
import hashlib
import json
from random import Random
from typing import Any
from unittest import mock

import pyarrow as pa
from pyarrow import ipc

from schemas import compression
from schemas.arrow_schema import caption_schema
from schemas.errors import DamagedDataError
from schemas.index import dump_index, load_index
from schemas.latent_manifest import LatentManifest
from schemas.latent_schema import latent_schema
from schemas.manifest import Container, Manifest
from schemas.parts import build_parts, check_chunk, chunk_checksum, encoding_pool, read_chunk
from schemas.tar_members import read_members
from tests.datasets import make_latent_manifest, make_manifest, samples, write_dataset
from tests.fuzz.mutations import EDGES, mutate_bytes
from tests.fuzz.scratch import scratch_folder
from tests.fuzz.target import Finding, Target
from tests.fuzz.tars import mutate_tar
from tests.latent_datasets import latent_batches, pictures
from trainer.stream.decode import PlaneColumn, decoded_captions, decoded_latents
from trainer.stream.shapes import require_caption_shapes, require_latent_shapes

ROWS = 4


@functools.cache
def honest_chunk(container: Container, kind: str, *, compressed: bool) -> bytes:
    """A chunk as the writer makes it, or with buffers that are not compressed, so that changes reach Arrow's checks."""
    compress = compression.compress if compressed else lambda buffers, _helpers: [None] * len(buffers)
    folder = scratch_folder(f"chunk-{container}-{kind}-{compressed}")
    with mock.patch("schemas.compression.compress", compress):
        if kind == "captions":
            manifest = make_manifest(container)
            store = write_dataset(str(folder), manifest, {"txt": {"s": samples(ROWS, missing=[2])}})
            path = next(info.path for info in store.list("shards"))
            data = store.get(path)
            begin, end = _first_chunk(store.get("ledger/txt/s.json"))
            return data[begin:end]
        latents = make_latent_manifest(container)
        schema = latent_schema(latents, "s")
        batches = latent_batches(latents, "s", pictures(latents, [f"{n}" for n in range(ROWS)], missing=[1]))
        with encoding_pool() as pool:
            (part,) = build_parts(batches, schema, "latents", latents.layout, pool)
        (chunk,) = part.entry.chunks
        return b"".join(part.data)[chunk.offset : chunk.offset + chunk.num_bytes]


def _first_chunk(record: bytes) -> tuple[int, int]:
    chunk = json.loads(record)["parts"][0]["chunks"][0]
    return chunk["offset"], chunk["offset"] + chunk["num_bytes"]


def mutate_message(random: Random, data: bytes) -> bytes:
    """A record batch message with changes to its flatbuffer, to what its buffers declare, or anywhere."""
    size = 8 + int.from_bytes(data[4:8], "little")
    choice = random.randrange(4)
    if choice == 0:
        return mutate_bytes(random, data)
    if choice == 1:
        return data[:8] + mutate_bytes(random, data[8:size], most=3)[: size - 8].ljust(size - 8, b"\0") + data[size:]
    if choice == 2:
        return data[:size] + mutate_bytes(random, data[size:], most=3)
    found = bytearray(data)
    at = size + random.randrange(max(1, (len(data) - size) // 8)) * 8
    found[at : at + 8] = (random.choice(EDGES) % 2**64).to_bytes(8, "little")
    return bytes(found)


def _make(container: Container, kind: str, random: Random) -> bytes:
    data = honest_chunk(container, kind, compressed=random.random() < 0.5)
    if container == "arrow":
        return mutate_message(random, data)
    return mutate_tar(random, data, content=_mutate_stream)


def _mutate_stream(random: Random, data: bytes) -> bytes:
    """A one-row stream, in its schema or in its batch."""
    size = 8 + int.from_bytes(data[4:8], "little")
    if random.random() < 0.25 or size > len(data):
        return mutate_bytes(random, data)
    return data[:size] + mutate_message(random, data[size:])


def _read(container: Container, kind: str, data: bytes) -> str:
    honest = [honest_chunk(container, kind, compressed=compressed) for compressed in (True, False)]
    if data not in honest:
        _must_be_refused(data, honest[0])
    manifest: Manifest | LatentManifest = (make_manifest if kind == "captions" else make_latent_manifest)(container)
    if isinstance(manifest, LatentManifest):
        schema = latent_schema(manifest, "s")
    else:
        schema = caption_schema(manifest, "txt", "s")
    bounds: Any = {"max_rows": ROWS, "max_row_bytes": manifest.row_bytes}
    batch = read_chunk(data, container, schema, where="x", **bounds)
    if isinstance(manifest, LatentManifest):
        latents = decoded_latents(batch)
        require_latent_shapes(latents, manifest.latents, where="x")
        _touch(latents.latents, batch.num_rows)
    else:
        captions = decoded_captions(batch)
        require_caption_shapes(captions, manifest.captions, where="x")
        for column in (*captions.hidden.values(), *captions.pooled.values()):
            _touch(column, batch.num_rows)
    batch.to_pylist()
    return "accepted"


def _must_be_refused(data: bytes, honest: bytes) -> None:
    chunk = mock.Mock(xxh3_64=chunk_checksum(honest))
    try:
        check_chunk(data, chunk, where="x")
    except DamagedDataError:
        return
    raise Finding("a changed chunk has the checksum of the honest one")


def _touch(column: PlaneColumn, num_rows: int) -> int:
    return sum(int(plane.sum()) for row in range(num_rows) for plane in column.row(row))


@functools.cache
def _honest_index(*, compressed: bool) -> bytes:
    folder = scratch_folder(f"index-{compressed}")
    store = write_dataset(str(folder), make_manifest(), {"txt": {name: samples(5) for name in ("a", "b/c", "d")}})
    records = {("txt", name): store.get(f"ledger/txt/{name}.json") for name in ("a", "b/c", "d")}
    options = ipc.IpcWriteOptions() if not compressed else ipc.IpcWriteOptions(compression=pa.Codec("zstd"))
    with mock.patch("schemas.index.write_options", return_value=options):
        return dump_index(records, "0" * 64, where="x")


def _make_index(random: Random) -> bytes:
    honest = _honest_index(compressed=random.random() < 0.5)
    digest = bytes(ipc.open_file(pa.py_buffer(honest)).schema.metadata[b"encode_once.sha256"])
    if random.random() < 0.2:
        return mutate_bytes(random, honest)
    size = 16 + int.from_bytes(honest[12:16], "little")
    changed = honest[:size] + mutate_message(random, honest[size:])
    return reseal_index(changed, digest)


def reseal_index(data: bytes, digest: bytes) -> bytes:
    """An index with another content and a right digest, as an attacker makes it."""
    placeholder = b"sha256 of this file with this text in the digest's place".ljust(64, b".")
    blank = data.replace(digest, placeholder)
    return blank.replace(placeholder, hashlib.sha256(blank).hexdigest().encode())


def _read_index(data: bytes) -> str:
    table = load_index(data, where="x")
    if data not in [_honest_index(compressed=compressed) for compressed in (True, False)]:
        digest = bytes(table.schema.metadata[b"encode_once.sha256"])
        if reseal_index(data, digest) != data:
            raise Finding("an index is accepted whose digest is wrong")
    table.to_pylist()
    return "accepted"


def _read_tar_run(data: bytes) -> str:
    try:
        return f"{len(list(read_members(memoryview(data))))} members"
    except ValueError:
        return "refused"


def _make_tar_run(random: Random) -> bytes:
    return mutate_tar(random, honest_chunk("webdataset", "captions", compressed=True))


CONTAINERS = (
    *(
        Target(
            f"{container}-{kind}",
            functools.partial(_make, container, kind),
            functools.partial(_read, container, kind),
            200,
        )
        for container in ("arrow", "webdataset")
        for kind in ("captions", "latents")
    ),
    Target("tar-members", _make_tar_run, _read_tar_run, 150),
    Target("index", _make_index, _read_index, 200),
)

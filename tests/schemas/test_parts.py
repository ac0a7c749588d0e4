"""Parts: bounded, content-addressed, the same bytes for the same rows, and each chunk whole in one of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest

from schemas.arrow_schema import caption_batch, caption_schema
from schemas.errors import DamagedDataError
from schemas.identity import ENCODER_NAMES
from schemas.manifest import CONTAINER_SUFFIX, Container, Manifest
from schemas.parts import BuiltPart, build_parts, check_chunk, chunks_in_flight, encoding_pool, read_chunk
from tests.datasets import Sample, encoder_rows, make_manifest, samples

pytestmark = pytest.mark.parametrize("container", ["arrow", "webdataset"])


def batches(manifest: Manifest, rows: Sequence[Sample]) -> list[pa.RecordBatch]:
    schema = caption_schema(manifest, "txt", "s")
    made = []
    for start in range(0, len(rows), manifest.layout.chunk_rows):
        chunk = rows[start : start + manifest.layout.chunk_rows]
        encoders = {name: encoder_rows(manifest.captions.encoder(name), chunk) for name in ENCODER_NAMES}
        encoded = np.array([row.caption is not None for row in chunk])
        keys, captions = [row.key for row in chunk], [row.caption for row in chunk]
        made.append(caption_batch(schema, manifest.captions, keys, captions, encoded, encoders))
    return made


def build(manifest: Manifest, rows: Sequence[Sample]) -> list[BuiltPart]:
    schema = caption_schema(manifest, "txt", "s")
    with encoding_pool() as pool:
        return list(build_parts(batches(manifest, rows), schema, "txt", manifest.layout, pool))


def test_names_sizes_and_chunk_tables(container: str) -> None:
    manifest = make_manifest(container, part_bytes=60_000)
    parts = build(manifest, samples(30, missing=[5]))
    assert len(parts) > 1
    assert any(len(part.entry.chunks) > 1 for part in parts)
    for index, part in enumerate(parts):
        data = b"".join(part.data)
        assert part.entry.num_bytes == len(data)
        assert part.entry.sha256 == hashlib.sha256(data).hexdigest()
        assert part.entry.name == f"txt-{index:05d}-{part.entry.sha256[:16]}{CONTAINER_SUFFIX[container]}"
        end = part.entry.chunks[0].offset
        for chunk in part.entry.chunks:
            assert chunk.offset == end
            end += chunk.num_bytes
            check_chunk(data[chunk.offset : end], chunk, where="x")
        assert end <= len(data)
    assert [chunk.num_rows for part in parts for chunk in part.entry.chunks] == [4] * 7 + [2]


def test_a_part_does_not_grow_with_the_shard(container: str) -> None:
    """Beyond `part_bytes` by no more than what a file has around its chunks, unless a single chunk does."""
    for part_bytes in (40_000, 100_000):
        parts = build(make_manifest(container, part_bytes=part_bytes), samples(60))
        assert len(parts) > 1
        assert max(part.entry.num_bytes for part in parts) < part_bytes * 1.2
    single = build(make_manifest(container, part_bytes=1), samples(12))
    assert [len(part.entry.chunks) for part in single] == [1, 1, 1]


def test_rows_are_packed_as_they_come(container: str, threads: Callable[[int], None]) -> None:
    """Beside the chunks in flight no more than one part is held."""
    threads(1)
    manifest = make_manifest(container, part_bytes=1)
    asked: list[int] = []

    def source() -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(batches(manifest, samples(40))):
            asked.append(number)
            yield batch

    schema = caption_schema(manifest, "txt", "s")
    with encoding_pool() as pool, closing(build_parts(source(), schema, "txt", manifest.layout, pool)) as building:
        for number, part in enumerate(building):
            assert len(part.entry.chunks) == 1
            # Its own chunk, the next, which did not fit, and those in flight.
            assert len(asked) <= number + 2 + chunks_in_flight()
    assert len(asked) == 10


def test_the_same_rows_make_the_same_bytes(container: str) -> None:
    manifest = make_manifest(container)
    first, second = (build(manifest, samples(20, missing=[7])) for _ in range(2))
    assert [part.entry for part in first] == [part.entry for part in second]
    assert [b"".join(part.data) for part in first] == [b"".join(part.data) for part in second]
    other = build(manifest, samples(20))
    assert first[0].entry.name == other[0].entry.name
    assert first[1].entry.name != other[1].entry.name


def test_no_rows_no_parts(container: str) -> None:
    assert build(make_manifest(container), []) == []


def read(data: bytes, container: Container, schema: pa.Schema) -> pa.RecordBatch:
    return read_chunk(data, container, schema, max_rows=4, max_row_bytes=20_000, where="x")


def test_a_chunk_alone_is_enough_to_read_it(container: str) -> None:
    manifest = make_manifest(container)
    rows = samples(11, missing=[3])
    schema = caption_schema(manifest, "txt", "s")
    found = [
        read(b"".join(part.data)[c.offset : c.offset + c.num_bytes], container, schema)
        for part in build(manifest, rows)
        for c in part.entry.chunks
    ]
    assert [key for batch in found for key in batch.column("key").to_pylist()] == [row.key for row in rows]
    for made, batch in zip(batches(manifest, rows), found, strict=True):
        assert batch.equals(made)
        assert batch.schema.equals(schema, check_metadata=True)


def test_any_other_bytes_are_refused(container: str) -> None:
    manifest = make_manifest(container)
    schema = caption_schema(manifest, "txt", "s")
    part = build(manifest, samples(4))[0]
    chunk = part.entry.chunks[0]
    data = b"".join(part.data)[chunk.offset : chunk.offset + chunk.num_bytes]
    for wrong in (b"", b"\0" * 4096, data[:700], b"x" * 5000, b"\xff" * 4096):
        with pytest.raises(DamagedDataError, match="chunk-undecodable"):
            read(wrong, container, schema)
    other = caption_schema(make_manifest(container, storage_dtype="float32"), "txt", "s")
    with pytest.raises(DamagedDataError, match="chunk-undecodable"):
        read(data, container, other)
    with pytest.raises(DamagedDataError, match="chunk-checksum"):
        check_chunk(data[:-1], chunk, where="x")

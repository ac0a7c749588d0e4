"""Image latents are read as they were written, beside captions or alone, from whatever holds their bytes."""

from __future__ import annotations

import json
import mmap
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from schemas import committed
from schemas.latent_manifest import LATENTS_GROUP, Manifests
from schemas.latent_schema import latent_batch, latent_schema
from schemas.ledger import part_path
from schemas.row import LatentRow
from tests.datasets import (
    BUCKETS,
    Picture,
    latents,
    make_latent_manifest,
    make_manifest,
    pictures,
    samples,
    write_dataset,
    write_latent_shard,
)
from tests.golden.damage_case import BOTH
from tests.latent_datasets import latent_rows

KINDS = [("autoencoder_kl", dtype) for dtype in ("bfloat16", "float16", "float32")] + [("pixels", "uint8")]
CONTAINERS = pytest.mark.parametrize("container", BOTH)
ROWS = samples(11, missing=[3, 10])


def same(row: LatentRow, picture: Picture, manifest: Any) -> None:
    assert row.key == picture.key
    assert row.is_null == (picture.size is None)
    if picture.size is None:
        for what in ("latents", "size", "crop", "original_size"):
            with pytest.raises(schemas.ContractError, match="row-null"):
                getattr(row, what)
        return
    expected = latents(manifest.latents, picture)
    assert (row.size, row.original_size) == (picture.size, (picture.size[0], 2 * picture.size[1]))
    assert row.crop == (0, picture.size[1] // 2)
    assert (row.latents.shape, row.latents.dtype) == (expected.shape, expected.dtype)
    assert row.latents.tobytes() == expected.tobytes()


@CONTAINERS
@pytest.mark.parametrize(("kind", "storage_dtype"), KINDS)
@pytest.mark.parametrize("source", ["index", "ledger"])
def test_beside_captions(tmp_path: Path, container: Any, kind: Any, storage_dtype: Any, source: Any) -> None:
    manifest = make_latent_manifest(container, kind, storage_dtype)
    images = {"b/1": pictures(manifest, [row.key for row in ROWS], missing=[0, 5, 6]), "empty": []}
    write_dataset(str(tmp_path), make_manifest(container), {"txt": {"b/1": ROWS, "empty": []}}, manifest, images=images)
    dataset = schemas.open_dataset(str(tmp_path), source)
    assert (dataset.groups, dataset.caption_groups) == ((LATENTS_GROUP, "txt"), ("txt",))
    assert dataset.manifests == Manifests(make_manifest(container), manifest)
    assert dataset.layout == dataset.manifest.layout
    for row, picture in zip(dataset.latent_rows(), images["b/1"], strict=True):
        same(row, picture, manifest)
    assert len({image.size for image in images["b/1"]} - {None}) > 1
    keys = [dataset.read_chunk(group, "b/1", 2).column("key").to_pylist() for group in dataset.groups]
    assert keys == 2 * [[row.key for row in ROWS[8:]]]
    assert [row.caption for row in dataset.rows("txt")] == [row.caption for row in ROWS]
    with pytest.raises(schemas.ContractError, match="not-captions"):
        next(dataset.rows(LATENTS_GROUP))
    stats = dataset.record(LATENTS_GROUP, "b/1").stats[LATENTS_GROUP]
    stored = [image for image in images["b/1"] if image.size is not None]
    assert stats.raw_bytes == sum(latents(manifest.latents, image).nbytes for image in stored)
    assert sum(stats.num_images.values()) == len(stored)


@CONTAINERS
def test_alone(tmp_path: Path, container: Any) -> None:
    manifest = make_latent_manifest(container)
    images = pictures(manifest, ["a", "é/b"], only=(16, 48))
    write_dataset(str(tmp_path), None, {}, manifest, {"s": images})
    dataset = schemas.open_dataset(str(tmp_path))
    assert dataset.latents == manifest
    assert (dataset.groups, dataset.caption_groups, dataset.num_rows(LATENTS_GROUP)) == ((LATENTS_GROUP,), (), 2)
    for row, picture in zip(dataset.latent_rows("s"), images, strict=True):
        same(row, picture, manifest)
    with pytest.raises(schemas.ContractError, match="manifest-missing"):
        _ = dataset.manifest
    with pytest.raises(schemas.ContractError, match="not-committed"):
        dataset.num_rows("txt")


def test_captions_alone(tmp_path: Path) -> None:
    write_dataset(str(tmp_path), make_manifest(), {"txt": {"s": ROWS}})
    dataset = schemas.open_dataset(str(tmp_path))
    assert dataset.latents is None
    with pytest.raises(schemas.ContractError, match="not-committed"):
        next(dataset.latent_rows())


def test_latents_added_after_the_captions_and_their_index(tmp_path: Path) -> None:
    store = write_dataset(str(tmp_path), make_manifest(), {"txt": {"s": ROWS}})
    captions = (tmp_path / "manifest.json").read_bytes()
    manifest = make_latent_manifest()
    images = pictures(manifest, [row.key for row in ROWS])
    write_dataset(str(tmp_path), None, {}, manifest, {"s": images})
    assert (tmp_path / "manifest.json").read_bytes() == captions
    assert schemas.open_dataset(str(tmp_path)).groups == (LATENTS_GROUP, "txt")
    write_latent_shard(store, manifest, "t", images)
    assert schemas.open_dataset(str(tmp_path), "ledger").shards(LATENTS_GROUP) == ("s", "t")


@CONTAINERS
def test_any_buffer_is_decoded_in_any_thread(tmp_path: Path, container: Any) -> None:
    manifest = make_latent_manifest(container)
    write_dataset(str(tmp_path), make_manifest(container), {"txt": {"s": ROWS}}, manifest)
    dataset = schemas.open_dataset(str(tmp_path))
    for group in dataset.groups:
        part, chunk = next(dataset.record(group, "s").chunks())
        wanted = dataset.read_chunk(group, "s", 0)
        data = (tmp_path / part_path("s", part.name)).read_bytes()[chunk.offset : chunk.offset + chunk.num_bytes]
        (tmp_path / "chunk").write_bytes(data)
        with (tmp_path / "chunk").open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        holders = [data, bytearray(data), memoryview(data), pa.py_buffer(data), mapped, np.frombuffer(data, np.uint8)]
        with ThreadPoolExecutor(8) as pool:
            decode = [pool.submit(dataset.decode_chunk, group, "s", part, chunk, held) for held in 4 * holders]
        for future in decode:
            assert future.result().equals(wanted)
        wrong = bytearray(data)
        wrong[len(wrong) // 2] ^= 1
        with pytest.raises(schemas.DamagedDataError, match="chunk-checksum"):
            dataset.decode_chunk(group, "s", part, chunk, wrong)
        more = chunk.model_copy(update={"num_rows": chunk.num_rows + 1})
        with pytest.raises(schemas.ContractError, match="chunk-rows"):
            dataset.decode_chunk(group, "s", part, more, data)


@CONTAINERS
def test_a_chunk_is_not_copied(tmp_path: Path, container: Any) -> None:
    """But for what is decompressed, which is Arrow's memory and not Python's."""
    manifest = make_latent_manifest(container, kind="pixels", buckets=((512, 512),), part_bytes=2**24)
    write_dataset(str(tmp_path), None, {}, manifest, {"s": pictures(manifest, ["a", "b"])})
    dataset = schemas.open_dataset(str(tmp_path))
    ((part, chunk),) = dataset.record(LATENTS_GROUP, "s").chunks()
    data = memoryview((tmp_path / part_path("s", part.name)).read_bytes())[chunk.offset :][: chunk.num_bytes]
    dataset.decode_chunk(LATENTS_GROUP, "s", part, chunk, data)
    tracemalloc.start()
    try:
        dataset.decode_chunk(LATENTS_GROUP, "s", part, chunk, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data) > 1_500_000
    assert peak < 200_000


def test_few_schemas_and_records_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committed, "_REMEMBERED", 3)
    manifest = make_latent_manifest()
    write_dataset(str(tmp_path), None, {}, manifest, {f"s{n}": pictures(manifest, ["a"]) for n in range(8)})
    dataset = schemas.open_dataset(str(tmp_path))
    for _ in range(2):
        assert [row.key for row in dataset.latent_rows()] == ["a"] * 8
        assert dataset.read_chunk(LATENTS_GROUP, "s3", 0).schema.metadata[b"encode_once.shard"] == b"s3"
    assert len(dataset._committed._parsed) <= 3
    assert len(dataset._schemas) <= 3


def test_the_readable_part_of_a_tar(tmp_path: Path) -> None:
    manifest = make_latent_manifest("webdataset")
    write_dataset(str(tmp_path), None, {}, manifest, {"s": [Picture("a", (16, 48)), Picture("b", None)]})
    (path,) = (tmp_path / "shards/s").iterdir()
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["a.latents.arrow", "a.json", "b.latents.arrow", "b.json"]
        read = [json.loads(archive.extractfile(f"{key}.json").read()) for key in "ab"]  # type: ignore[union-attr]
    image = {"original_height": 16, "original_width": 96, "crop_top": 0, "crop_left": 24, "height": 16, "width": 48}
    assert read == [{"key": "a", "image": image}, {"key": "b", "image": None}]


@given(sizes=st.lists(st.sampled_from([None, *BUCKETS]), min_size=1, max_size=9), pixels=st.booleans())
def test_any_pattern_of_sizes_and_null_rows(sizes: list[tuple[int, int] | None], pixels: bool) -> None:
    manifest = make_latent_manifest(kind="pixels" if pixels else "autoencoder_kl")
    images = [Picture(str(index), size) for index, size in enumerate(sizes)]
    encoded = np.array([size is not None for size in sizes])
    columns = latent_rows(manifest.latents, images)
    batch = latent_batch(
        latent_schema(manifest, "s"), manifest.latents, [image.key for image in images], encoded, columns
    )
    batch.validate(full=True)
    assert batch.column("image").null_count == batch.column("latents").null_count == sizes.count(None)
    for index, image in enumerate(images):
        same(LatentRow(batch, index, manifest), image, manifest)


def test_a_tensor_of_another_shape_is_not_stored() -> None:
    manifest = make_latent_manifest()
    image = Picture("a", (16, 48))
    columns = latent_rows(manifest.latents, [image])
    columns.latents[0].shape = (16, 6, 2)
    with pytest.raises(AssertionError):
        latent_batch(latent_schema(manifest, "s"), manifest.latents, ["a"], np.array([True]), columns)

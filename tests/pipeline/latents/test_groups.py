"""From the images of a tar to the committed group `latents`: aligned with the captions, every image accounted for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import schemas
from pipeline.engine_settings import EngineSettings
from pipeline.latents import LatentOptions, load_latents
from pipeline.latents.groups import LatentGroups
from pipeline.latents.options import ImageConfig, VaeConfig
from pipeline.shard_encoder import ShardEncoder, ShardResult
from pipeline.sources import InputTar
from schemas.errors import ContractError, IdentityMismatchError
from schemas.identity import LatentComputeDtype
from schemas.latent_manifest import LatentManifest, create_latents_or_require_same
from schemas.ledger import rejects_path
from schemas.manifest import Container, Layout, Manifest, Provenance, create_or_require_same
from schemas.rejects import Reject, load_rejects
from schemas.storage import Store
from tests.pipeline.encoding import make_manifest, small_encoders, write_tar
from tests.pipeline.latents.autoencoders import normalized, save, small_autoencoder
from tests.pipeline.latents.pictures import encoded, noise, reference

PIXELS = LatentOptions("pixels", ImageConfig(resolution=32, crop="buckets", bucket_step=8))
LAYOUT = Layout(container="arrow", chunk_rows=4, part_bytes=2 * 1024**2)


def latent_groups(
    dataset: Path,
    options: LatentOptions,
    layout: Layout,
    settings: EngineSettings,
    compute_dtype: LatentComputeDtype = "float32",
) -> LatentGroups:
    identity, encoder = load_latents(options, compute_dtype, "cpu")
    created = Provenance(run_id="test", time="2026-01-01T00:00:00+00:00", versions={})
    manifest = LatentManifest(layout=layout, latents=identity, created=created)
    stored = create_latents_or_require_same(Store(str(dataset)), manifest)
    return LatentGroups(stored, identity, encoder, options, settings, "test")


def worker(
    inputs: Path,
    dataset: Path,
    *,
    captions: bool = False,
    latents: LatentOptions | None = PIXELS,
    layout: Layout = LAYOUT,
    settings: EngineSettings | None = None,
) -> ShardEncoder:
    settings = settings or EngineSettings()
    store = Store(str(dataset))
    groups = None if latents is None else latent_groups(dataset, latents, layout, settings)
    manifest: Manifest | None = None
    if captions:
        manifest = make_manifest(small_encoders("none"), layout.container, layout.chunk_rows)
        manifest = create_or_require_same(store, manifest)
    encoders = small_encoders("none") if captions else {}
    return ShardEncoder(Store(str(inputs)), store, manifest, encoders, settings, "test", "cpu", latents=groups)


def rejects(dataset: Path, group: str = "latents") -> list[Reject]:
    return load_rejects((dataset / rejects_path(group, "s")).read_bytes(), where="")


SIZES = [(40, 40), (70, 40), (40, 70), (32, 32), (200, 30), (64, 64), (33, 40), (90, 60), (50, 80), (41, 41)]


@pytest.fixture
def tar(tmp_path: Path) -> InputTar:
    members = []
    for number, size in enumerate(SIZES):
        members += [(f"{number}.png", encoded(noise(*size, seed=number))), (f"{number}.txt", b"caption %d" % number)]
    return write_tar(tmp_path / "in" / "s.tar", members)


@pytest.mark.parametrize("container", ["arrow", "webdataset"])
def test_pixels_are_pillows(tmp_path: Path, tar: InputTar, container: Container) -> None:
    layout = LAYOUT.model_copy(update={"container": container})
    result = worker(tmp_path / "in", tmp_path / "out", layout=layout).encode(tar, ["latents"], 1)
    assert result.counters.num_images == len(SIZES)
    ds = schemas.open_dataset(str(tmp_path / "out"))
    rows = list(ds.latent_rows())
    assert [row.key for row in rows] == [str(number) for number in range(len(SIZES))]
    sizes = set()
    for row, (width, height), number in zip(rows, SIZES, range(len(SIZES)), strict=True):
        assert row.original_size == (height, width)
        expected = reference(encoded(noise(width, height, seed=number)), *row.size)
        assert np.abs(row.latents.astype(int) - expected).max() <= 2
        sizes.add(row.size)
    assert sizes == {(24, 40), (32, 32), (40, 24)}
    record = ds.record("latents", "s")
    stats = record.stats["latents"]
    assert stats.raw_bytes == sum(row.latents.nbytes for row in rows) == result.counters.raw_bytes
    assert sum(stats.num_images.values()) == len(SIZES)
    assert set(stats.num_images) == {f"{height}x{width}" for height, width in sizes}


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_latents_are_diffusers_own(tmp_path: Path, tar: InputTar, batch_size: int | None) -> None:
    """Whatever the windows and batches: each image's own, though batches are sorted by size."""
    vae = small_autoencoder()
    source = VaeConfig(save(vae, tmp_path / "vae"), storage_dtype="float32", batch_size=batch_size)
    options = dataclasses.replace(PIXELS, latents="autoencoder_kl", vae=source)
    window_bytes = 1 if batch_size == 3 else 10**8
    settings = EngineSettings(image_window_bytes=window_bytes)
    worker(tmp_path / "in", tmp_path / "out", latents=options, settings=settings).encode(tar, ["latents"], 1)
    worker(tmp_path / "in", tmp_path / "pixels").encode(tar, ["latents"], 1)
    rows = schemas.open_dataset(str(tmp_path / "out")).latent_rows()
    pixels = schemas.open_dataset(str(tmp_path / "pixels")).latent_rows()
    for row, image in zip(rows, pixels, strict=True):
        expected = normalized(vae, torch.from_numpy(image.latents.copy())[None])[0].numpy()
        np.testing.assert_allclose(row.latents, expected, atol=1e-5)
        assert (row.original_size, row.crop, row.size) == (image.original_size, image.crop, image.size)


def test_before_with_and_after_the_captions(tmp_path: Path, tar: InputTar) -> None:
    """The order of the groups changes neither rows nor bytes, and what is not encoded is not loaded."""
    inputs = tmp_path / "in"

    def encode(name: str, groups: list[str]) -> ShardResult:
        captions, latents = "txt" in groups, PIXELS if "latents" in groups else None
        return worker(inputs, tmp_path / name, captions=captions, latents=latents).encode(tar, groups, 1)

    encode("before", ["latents"])
    assert not (tmp_path / "before" / "manifest.json").exists()
    encode("before", ["txt"])
    encode("with", ["txt", "latents"])
    encode("after", ["txt"])
    encode("after", ["latents"])
    found = set()
    for name in ("before", "with", "after"):
        ds = schemas.open_dataset(str(tmp_path / name))
        records = [ds.record(group, "s") for group in ("latents", "txt")]
        assert len({record.keys_sha256 for record in records}) == 1
        assert [[chunk.num_rows for _, chunk in record.chunks()] for record in records] == [[4, 4, 2]] * 2
        assert [row.key for row in ds.latent_rows()] == [row.key for row in ds.rows("txt")]
        found.add(tuple(part.sha256 for record in records for part in record.parts))
    assert len(found) == 1


def test_every_image_is_accounted_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the files of a window are read a few at a time."""
    monkeypatch.setattr("pipeline.latents.groups._READ_BYTES", 1500)
    jpeg = encoded(noise(64, 64), "JPEG")
    large = noise(64, 64)
    members = [
        ("good.jpg", jpeg),
        ("good.txt", b"a caption"),
        ("none.txt", b"no image"),
        ("none.seg.png", encoded(large)),
        ("torn.jpeg", jpeg[:400]),
        ("lie.webp", b"not an image"),
        ("small.png", encoded(noise(8, 8))),
        ("huge.png", encoded(noise(300, 300))),
        # The first of several counts; and of one name twice.
        ("two.png", encoded(noise(40, 40))),
        ("two.jpg", jpeg),
        ("two.png", encoded(noise(48, 48))),
        ("upper.JPG", jpeg),
    ]
    tar = write_tar(tmp_path / "in" / "s.tar", members)
    options = dataclasses.replace(PIXELS, images=dataclasses.replace(PIXELS.images, max_pixels=200 * 200))
    (result,) = worker(tmp_path / "in", tmp_path / "out", latents=options).encode(tar, ["latents"], 1).groups
    assert (result.num_rows, result.num_encoded, result.num_rejects) == (8, 3, 6)
    ds = schemas.open_dataset(str(tmp_path / "out"))
    record = ds.record("latents", "s")
    assert record.num_inputs == record.num_encoded + record.num_rejects == 9
    rows = {row.key: row for row in ds.latent_rows()}
    assert [key for key, row in rows.items() if not row.is_null] == ["good", "two", "upper"]
    assert rows["two"].original_size == (40, 40)
    assert {(reject.key, reject.code, reject.member, reject.has_row) for reject in rejects(tmp_path / "out")} == {
        ("two", "duplicate-member", "two.png", False),
        ("none", "image-missing", None, True),
        ("torn", "image-undecodable", "torn.jpeg", True),
        ("lie", "image-undecodable", "lie.webp", True),
        ("small", "image-too-small", "small.png", True),
        ("huge", "image-too-large", "huge.png", True),
    }


def test_a_tar_that_is_cut_off_loses_its_last_image_alone(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "in" / "s.tar", [(f"{i}.png", encoded(noise(64, 64, seed=i))) for i in range(3)])
    path = tmp_path / "in" / "s.tar"
    path.write_bytes(path.read_bytes()[:-12_000])
    info = Store(str(path.parent)).head(path.name)
    assert info is not None
    cut = dataclasses.replace(tar, num_bytes=info.num_bytes, e_tag=info.e_tag)
    (result,) = worker(tmp_path / "in", tmp_path / "out").encode(cut, ["latents"], 1).groups
    assert (result.num_encoded, result.num_rejects, result.num_damage) == (2, 1, 1)
    assert [(reject.key, reject.code) for reject in rejects(tmp_path / "out")] == [("2", "image-cut-off")]


def test_latents_that_are_not_finite_are_rejects(tmp_path: Path, tar: InputTar) -> None:
    """float16 cannot hold what float32 computed."""
    source = save(small_autoencoder(scaling_factor=1e6), tmp_path / "vae")
    vae = VaeConfig(source, storage_dtype="float16")
    options = dataclasses.replace(PIXELS, latents="autoencoder_kl", vae=vae)
    (result,) = worker(tmp_path / "in", tmp_path / "out", latents=options).encode(tar, ["latents"], 1).groups
    assert result.num_rejects == len(SIZES) - result.num_encoded > 0
    assert {reject.code for reject in rejects(tmp_path / "out")} == {"output-not-finite"}


def test_rejects_stand_in_the_order_of_the_rows(tmp_path: Path) -> None:
    """Images are decoded windows before others turn out not to be finite."""
    data = [b"not an image" if number % 3 == 2 else encoded(noise(40, 40, seed=number)) for number in range(24)]
    tar = write_tar(tmp_path / "in" / "s.tar", [(f"{number}.png", image) for number, image in enumerate(data)])
    vae = VaeConfig(save(small_autoencoder(scaling_factor=1e9), tmp_path / "vae"), storage_dtype="float16")
    options = dataclasses.replace(PIXELS, latents="autoencoder_kl", vae=vae)
    settings = EngineSettings(image_window_bytes=1)
    worker(tmp_path / "in", tmp_path / "out", latents=options, settings=settings).encode(tar, ["latents"], 1)
    found = [(int(reject.key or ""), reject.code) for reject in rejects(tmp_path / "out")]
    assert found == [(n, "image-undecodable" if n % 3 == 2 else "output-not-finite") for n in range(24)]


def test_a_node_with_other_weights_encodes_nothing(tmp_path: Path) -> None:
    vae = small_autoencoder()
    options = dataclasses.replace(PIXELS, latents="autoencoder_kl", vae=VaeConfig(save(vae, tmp_path / "vae")))
    groups = latent_groups(tmp_path / "out", options, LAYOUT, EngineSettings())
    vae.encoder.conv_in.bias.data += 1
    save(vae, tmp_path / "vae")
    identity, encoder = load_latents(options, "float32", "cpu")
    with pytest.raises(IdentityMismatchError, match="weights_sha256"):
        LatentGroups(groups.manifest, identity, encoder, options, EngineSettings(), "a node")


def test_a_tar_that_changes_while_its_images_are_read_is_noticed(
    tmp_path: Path, tar: InputTar, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = worker(tmp_path / "in", tmp_path / "out")
    path = tmp_path / "in" / "s.tar"
    original = LatentGroups.begin

    def rewrite(self: LatentGroups, *arguments: object) -> object:
        path.write_bytes(path.read_bytes() + b"\0" * 512)
        return original(self, *arguments)

    monkeypatch.setattr(LatentGroups, "begin", rewrite)
    with pytest.raises(schemas.DamagedDataError, match="input-changed"):
        encoder.encode(tar, ["latents"], 1)
    assert not (tmp_path / "out" / "ledger").exists()


def test_a_shard_without_samples_and_a_second_writer(tmp_path: Path, tar: InputTar) -> None:
    empty = write_tar(tmp_path / "in" / "empty.tar", [])
    encoder = worker(tmp_path / "in", tmp_path / "out")
    assert encoder.encode(empty, ["latents"], 1).groups[0].committed
    assert encoder.encode(tar, ["latents"], 1).groups[0].committed
    assert not encoder.encode(tar, ["latents"], 2).groups[0].committed
    with pytest.raises(ContractError):
        next(schemas.open_dataset(str(tmp_path / "out"), "ledger").rows("latents"))

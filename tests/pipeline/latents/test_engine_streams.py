"""The latents' engine on a GPU, as far as a CPU can tell: its streams, and values equal to the CPU's, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.engine_settings import EngineSettings
from pipeline.latents import LatentOptions, describe_latents, engine, load_latents
from pipeline.latents.autoencoder import LatentEncoder
from pipeline.latents.engine import EncodedImageWindow, LatentEngine
from pipeline.latents.groups import LatentGroups
from pipeline.latents.options import ImageConfig, VaeConfig
from pipeline.shard_encoder import ShardEncoder
from pipeline.transfer import page_locked
from schemas.dataset import open_dataset
from schemas.latent_manifest import LatentManifest, create_latents_or_require_same
from schemas.manifest import Layout, Provenance
from schemas.storage import Store
from tests.pipeline.device_encoders import checked_device
from tests.pipeline.encoding import write_tar
from tests.pipeline.latents.autoencoders import save, small_autoencoder
from tests.pipeline.latents.pictures import encoded, noise
from tests.pipeline.latents.test_engine import windows
from tests.stream_checker import DEVICE, StreamChecker

IMAGES = ImageConfig(resolution=32, crop="buckets", bucket_step=8)


@pytest.fixture
def encoder(tmp_path: Path) -> LatentEncoder:
    source = save(small_autoencoder(), tmp_path / "vae")
    _, found = load_latents(LatentOptions("autoencoder_kl", vae=VaeConfig(source)), "bfloat16", "cpu")
    assert found is not None
    return found


class OnDevice:
    """The encoder as it would be on a GPU: one kernel, computed on the CPU."""

    def __init__(self, encoder: LatentEncoder, checker: StreamChecker) -> None:
        self.device = DEVICE
        self._encoder = encoder
        self._checker = checker

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        found = self._checker.kernel("autoencoder", self._encoder.encode, images)
        assert isinstance(found, torch.Tensor)
        return found


def run(encoder: object, num_rows: list[int]) -> list[EncodedImageWindow]:
    found = LatentEngine(encoder, "bfloat16", 4, batch_pixels=1)  # type: ignore[arg-type] # a stand-in
    return list(found.encode(windows(num_rows, 0)))


def test_windows_of_several_batches(encoder: LatentEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    num_rows = [30, 0, 1, 17]
    expected = run(encoder, num_rows)
    num_bytes = []

    def counted(number: int) -> torch.Tensor:
        num_bytes.append(number)
        return page_locked(number)

    monkeypatch.setattr(engine, "page_locked", counted)
    with checked_device() as checker:
        found = run(OnDevice(encoder, checker), num_rows)
        assert checker.kernels["autoencoder"] >= 12
        pinned = checker.pinned_bytes
    for out, other in zip(found, expected, strict=True):
        assert (out.start, out.keys, out.not_finite) == (other.start, other.keys, other.not_finite)
        for row, same in zip(out.rows, other.rows, strict=True):
            assert (row is None) == (same is None)
            if row is not None and same is not None:
                np.testing.assert_array_equal(row.latents.view(np.uint16), same.latents.view(np.uint16))
                assert (row.original_size, row.crop, row.size) == (same.original_size, same.crop, same.size)
        assert out.counters.device_seconds > 0 or not out.keys
    images = [image for window in windows(num_rows, 0) for image in window.images if image is not None]
    # Pixels and latents, and a byte an image that says whether it is finite.
    assert sum(num_bytes) == sum(image.pixels.size + 2 * 4 * image.pixels.size // 12 + 1 for image in images)
    # Two batches are in flight while one is launched; page-locked memory comes in powers of two.
    assert pinned <= 3 * (1024 + 512 + 4)


def test_shards_from_tar_to_dataset(encoder: LatentEncoder, tmp_path: Path) -> None:
    """Decoded, encoded and packed in threads of their own; stored are the CPU's bytes."""
    images = [encoded(noise(24 + 8 * (n % 3), 40 - 8 * (n % 2), seed=n)) for n in range(13)]
    tars = [write_tar(tmp_path / "in" / f"{name}.tar", [(f"{n}.png", images[n]) for n in range(13)]) for name in "ab"]
    options = LatentOptions("autoencoder_kl", IMAGES, VaeConfig(str(tmp_path / "vae"), batch_size=3))
    identity = describe_latents(options, "bfloat16")
    created = Provenance(run_id="test", time="2026-01-01T00:00:00+00:00", versions={})
    layout = Layout(container="arrow", chunk_rows=2, part_bytes=2 * 1024**2)
    manifest = LatentManifest(layout=layout, latents=identity, created=created)
    settings = EngineSettings(image_window_bytes=4 * 3 * IMAGES.resolution**2)

    def encode(out: Path, encoder: object) -> list[tuple[str, ...]]:
        store = Store(str(out))
        create_latents_or_require_same(store, manifest)
        groups = LatentGroups(manifest, identity, encoder, options, settings, "test")  # type: ignore[arg-type] # a stand-in
        inputs = Store(str(tmp_path / "in"))
        shards = ShardEncoder(inputs, store, None, {}, settings, "test", "cpu", latents=groups)
        for tar in tars:
            assert shards.encode(tar, ["latents"], 1).counters.num_images == 13
        dataset = open_dataset(str(out), "ledger")
        return [tuple(part.sha256 for part in dataset.record("latents", tar.shard).parts) for tar in tars]

    expected = encode(tmp_path / "cpu", encoder)
    with checked_device() as checker:
        assert encode(tmp_path / "gpu", OnDevice(encoder, checker)) == expected
        assert checker.kernels["autoencoder"] >= 2 * 13 // 3

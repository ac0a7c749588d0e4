"""The latents' engine on a GPU, as far as a CPU can tell: its streams, and values equal to the CPU's, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.latents import LatentOptions, engine, load_latents
from pipeline.latents.autoencoder import LatentEncoder
from pipeline.latents.engine import EncodedImageWindow, LatentEngine
from pipeline.latents.options import VaeConfig
from pipeline.transfer import page_locked
from tests.pipeline.device_encoders import checked_device
from tests.pipeline.latents.autoencoders import save, small_autoencoder
from tests.pipeline.latents.test_engine import windows
from tests.stream_checker import DEVICE, StreamChecker


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

"""Latents become the pictures they were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from schemas.errors import ConfigError
from schemas.identity import LatentIdentity
from tests.trainer.runs import PIXELS
from trainer.latent_decoder import open_decoder, to_pictures

SHIFT, SCALE = 0.06, 1.5


def autoencoder() -> AutoencoderKL:
    torch.manual_seed(0)
    block_out_channels = (8, 8)
    model = AutoencoderKL(
        latent_channels=4, block_out_channels=block_out_channels, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, shift_factor=SHIFT, scaling_factor=SCALE,
        layers_per_block=1,
    )  # fmt: skip
    return model.eval()


def identity(source: str, **changes: object) -> LatentIdentity:
    values = PIXELS.model_dump() | {
        "kind": "autoencoder_kl", "source": source, "weights_sha256": "0" * 64, "num_channels": 4,
        "downscale_factor": 2, "shift_factor": SHIFT, "scaling_factor": SCALE, "posterior": "mode",
        "storage_dtype": "bfloat16",
    }  # fmt: skip
    return LatentIdentity.model_validate(values | changes)


def test_pixels_come_back_exactly() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=1)
    latents = torch.from_numpy(levels) / 127.5 - 1
    (picture,) = open_decoder(PIXELS)(latents)
    assert np.array_equal(np.asarray(picture), levels[0].transpose(1, 2, 0))
    black_and_white = to_pictures(torch.tensor([-9.0, 9.0]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2))
    assert np.asarray(black_and_white[0])[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("folder", ["", "vae"])
def test_shift_and_scale_of_an_autoencoder_are_undone(tmp_path: Path, folder: str) -> None:
    model = autoencoder()
    model.save_pretrained(tmp_path / folder)
    inner = torch.randn(2, 4, 8, 6)
    with torch.no_grad():
        expected = to_pictures(model.decode(inner, return_dict=False)[0])
    for decode in (open_decoder(identity(str(tmp_path))), open_decoder(identity("elsewhere"), source=str(tmp_path))):
        actual = decode((inner - SHIFT) * SCALE)
        assert [picture.size for picture in actual] == [(12, 16)] * 2
        for left, right in zip(actual, expected, strict=True):
            assert np.abs(np.asarray(left).astype(int) - np.asarray(right).astype(int)).max() <= 1


def test_an_autoencoder_of_other_latents_is_refused(tmp_path: Path) -> None:
    autoencoder().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"scaling_factor: 2.0 -> 1.5"):
        open_decoder(identity(str(tmp_path), scaling_factor=2.0))


def test_an_autoencoder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="autoencoder-unusable") as caught:
        open_decoder(identity(str(tmp_path)))
    assert str(tmp_path / "vae") in caught.value.actual

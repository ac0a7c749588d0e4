"""`encode --latents` as users run it, with Ray: images alone, then with their captions."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import schemas
from pipeline.demo_data import DemoDataConfig
from pipeline.demo_data import run as write_demo_data
from pipeline.encode import run as encode_here
from pipeline.latents.options import VaeConfig
from pipeline.presets import PRESETS
from schemas.validator import validate
from tests.integration.commands import encode, files
from tests.pipeline.latents.autoencoders import normalized, save, small_autoencoder

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demo tars, one of them with images that are none."""
    folder = tmp_path_factory.mktemp("latents") / "tars"
    write_demo_data(DemoDataConfig(folder, num_shards=2, samples_per_shard=20))
    with tarfile.open(folder / "00001.tar", "a") as tar:
        for name, data in (("torn.jpg", b"\xff\xd8\xff\xe0 and no more"), ("torn.txt", b"a torn picture")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return folder


def test_images_first_then_their_captions(tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = tmp_path / "dataset"
    vae = small_autoencoder()
    source = save(vae, tmp_path / "model" / "vae")
    latents = ("--latents", "autoencoder_kl", "--vae.source", str(Path(source).parent), "--images.resolution", "32")
    latents += ("--vae.storage-dtype", "float32")
    # A text encoder that does not exist is not missed.
    exact = ("--vae.compute-dtype", "float32")
    output = encode(tars, dataset, "--columns", *latents, *exact, "--t5.source", str(tmp_path / "nowhere"))
    assert "40 images in" in output
    assert "41 inputs = 40 encoded + 1 rejected" in output
    assert not (dataset / "manifest.json").exists()
    first = schemas.open_dataset(str(dataset))
    assert (first.groups, first.layout.chunk_rows) == (("latents",), 64)
    assert [finding.code for finding in validate(str(dataset), "values").findings] == []
    before = files(dataset / "shards")

    # The whole command again, with captions: the images are there, and only text encoders have work. What the
    # autoencoder computes in is the dataset's, if nothing else is said.
    output = encode(tars, dataset, *latents)
    assert "41 captions in" in output
    assert "images in" not in output
    assert before.items() <= files(dataset / "shards").items()
    ds = schemas.open_dataset(str(dataset))
    assert ds.groups == ("latents", "txt")
    assert [finding.code for finding in validate(str(dataset), "values").findings] == []
    assert [row.key for row in ds.latent_rows()] == [row.key for row in ds.rows("txt")]
    for row in ds.latent_rows():
        assert row.is_null == (row.key == "torn")
    row = next(ds.latent_rows())
    pixels = first_pixels(tars)
    np.testing.assert_allclose(row.latents, normalized(vae, pixels[None])[0].numpy(), atol=1e-5)

    vae_config = VaeConfig(source, storage_dtype="float32", compute_dtype="bfloat16")
    other = dataclasses.replace(PRESETS["demo"][1], input=str(tars), output=str(dataset), columns=(), vae=vae_config)
    other = dataclasses.replace(
        other, latents="autoencoder_kl", images=dataclasses.replace(other.images, resolution=32)
    )
    with pytest.raises(schemas.IdentityMismatchError, match=r"latents\.compute_dtype: 'float32' -> 'bfloat16'"):
        encode_here(other)
    capsys.readouterr()
    encode_here(dataclasses.replace(other, dry_run=True, columns=("txt", "json.long_caption")))
    assert "4 of 6 shards x columns" in capsys.readouterr().out


def first_pixels(tars: Path) -> torch.Tensor:
    """The first image, resized by Pillow alone."""
    with tarfile.open(tars / "00000.tar") as tar:
        member = tar.next()
        assert member is not None
        file = tar.extractfile(member)
        assert file is not None
        image = Image.open(io.BytesIO(file.read())).resize((32, 32), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())

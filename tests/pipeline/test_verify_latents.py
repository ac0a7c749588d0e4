"""`verify` compares latents with the images of the tars: it passes what is right and names what is not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from pipeline.__main__ import main
from pipeline.engine_settings import EngineSettings
from pipeline.latents import LatentOptions
from pipeline.latents.autoencoder import LatentEncoder
from pipeline.latents.images import CroppedImage, ImageReader
from pipeline.latents.options import ImageConfig, VaeConfig
from pipeline.shard_encoder import ShardEncoder
from pipeline.sources import InputTar
from pipeline.sources.caption_text import Fault
from pipeline.verify import VerifyConfig, VerifyStatus, run
from schemas.identity import LatentComputeDtype, StorageDtype
from schemas.storage import Store
from tests.pipeline.encoding import write_tar
from tests.pipeline.latents.autoencoders import save, small_autoencoder
from tests.pipeline.latents.pictures import encoded, noise
from tests.pipeline.latents.test_groups import LAYOUT, latent_groups, worker
from tests.s3_server import s3_bucket, s3_server

IMAGES = ImageConfig(resolution=32, crop="buckets", bucket_step=8, max_upscale=8)
SIZES = [(40, 40), (70, 40), (40, 70), (32, 32), (5, 6), (64, 64), (33, 40)]


def tar_of(folder: Path, name: str, *, seed: int = 0, prefix: str = "") -> InputTar:
    members = []
    for number, (width, height) in enumerate(SIZES):
        data = encoded(noise(width, height, seed=seed + number))
        members += [(f"{prefix}{number}.png", data), (f"{prefix}{number}.txt", b"a caption")]
    return write_tar(folder / f"{name}.tar", [*members, ("none.txt", b"no image")])


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return small_autoencoder()


def encode(
    folder: Path,
    options: LatentOptions,
    compute_dtype: LatentComputeDtype = "bfloat16",
    inputs: str | None = None,
) -> str:
    """Two shards of latents in `folder/out`, of tars in `folder/in`."""
    tars = [tar_of(folder / "in", name, seed=10 * number) for number, name in enumerate("ab")]
    groups = latent_groups(folder / "out", options, LAYOUT, EngineSettings(), compute_dtype)
    store, dataset = Store(inputs or str(folder / "in")), Store(str(folder / "out"))
    shards = ShardEncoder(store, dataset, None, {}, EngineSettings(), "test", "cpu", latents=groups)
    for tar in tars:
        found = store.head(tar.path)
        assert found is not None
        shards.encode(dataclasses.replace(tar, e_tag=found.e_tag), ["latents"], 1)
    return str(folder / "out")


def latents(folder: Path, vae: AutoencoderKL, storage_dtype: StorageDtype = "bfloat16") -> LatentOptions:
    source = save(vae, folder / "vae")
    return LatentOptions("autoencoder_kl", IMAGES, VaeConfig(source, storage_dtype=storage_dtype))


def verify(capsys: pytest.CaptureFixture[str], url: str, **options: Any) -> tuple[int, dict[str, Any]]:
    """Exit status, and what the JSON report says of latents."""
    capsys.readouterr()
    status = run(VerifyConfig(url, json=True, **{"sample": 100, **options}))
    report = json.loads(capsys.readouterr().out)
    assert report["url"] == url
    found: dict[str, Any] = report["latents"]
    return int(status), found


@pytest.mark.parametrize(("compute_dtype", "storage_dtype"), [("float32", "float32"), ("bfloat16", "bfloat16")])
def test_what_the_engine_writes_is_sound(
    tmp_path: Path,
    vae: AutoencoderKL,
    capsys: pytest.CaptureFixture[str],
    compute_dtype: LatentComputeDtype,
    storage_dtype: StorageDtype,
) -> None:
    url = encode(tmp_path, latents(tmp_path, vae, storage_dtype), compute_dtype)
    status, report = verify(capsys, url)
    assert (status, report["num_rows"], report["num_below"]) == (0, 2 * len(SIZES), 0)
    assert {(row["shard"], row["row"], row["key"]) for row in report["rows"]} == {
        (shard, number, str(number)) for shard in "ab" for number in range(len(SIZES))
    }
    cosines = [row["cosine"] for row in report["rows"]]
    assert cosines == sorted(cosines)
    assert cosines[0] == report["cosine"]
    errors = [row["relative_error"] for row in report["rows"]]
    if compute_dtype == "float32":
        assert max(errors) < 1e-5
    else:
        assert 0.001 < max(errors) < 0.02
    # Drawn, not taken from the beginning; one draw is like another of the same seed.
    draws = [
        {(row["shard"], row["row"]) for row in verify(capsys, url, sample=4, seed=s)[1]["rows"]} for s in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert run(VerifyConfig(url, sample=3, shown=2)) == VerifyStatus.SOUND
    out = capsys.readouterr().out
    assert f"All 3 rows of latents are but for rounding ({compute_dtype}, {storage_dtype})" in out
    assert "... and 1 more rows" in out


def wrong_scale(self: LatentEncoder, images: torch.Tensor) -> torch.Tensor:
    """Of the first image of a batch."""
    return ENCODE(self, images) * torch.tensor([1.2, *[1.0] * (len(images) - 1)])[:, None, None, None]


def swapped(self: LatentEncoder, images: torch.Tensor) -> torch.Tensor:
    return ENCODE(self, images).flip(0)


def unshifted(self: LatentEncoder, images: torch.Tensor) -> torch.Tensor:
    return ENCODE(self, images) + 0.0609 * 1.5305


ENCODE = LatentEncoder.encode


@pytest.mark.parametrize("mistake", [wrong_scale, swapped, unshifted])
def test_wrong_latents_are_found(
    tmp_path: Path,
    vae: AutoencoderKL,
    capsys: pytest.CaptureFixture[str],
    mistake: Callable[[LatentEncoder, torch.Tensor], torch.Tensor],
) -> None:
    options = latents(tmp_path, vae)
    options = dataclasses.replace(options, vae=dataclasses.replace(options.vae, batch_size=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LatentEncoder, "encode", mistake)
        url = encode(tmp_path, options)
    status, report = verify(capsys, url)
    assert status == VerifyStatus.DIFFERENT
    assert report["num_below"] > 0
    bad = [row for row in report["rows"] if not row["ok"]]
    assert report["rows"][: len(bad)] == bad, "the worst come first"
    assert {row["cause"] for row in bad} == {"unknown"}
    assert run(VerifyConfig(url, sample=100)) == VerifyStatus.DIFFERENT
    out = capsys.readouterr().out
    assert f"{len(bad)} of {2 * len(SIZES)} rows of latents are not what the manifest and their images say" in out
    assert out.index(f"{bad[0]['shard']} row {bad[0]['row']} ({bad[0]['key']})") < out.index("unknown: not what")


def test_rounding_beyond_the_threshold_is_called_rounding(
    tmp_path: Path, vae: AutoencoderKL, capsys: pytest.CaptureFixture[str]
) -> None:
    url = encode(tmp_path, latents(tmp_path, vae))
    status, report = verify(capsys, url, min_latent_cosine=0.999999)
    assert status == VerifyStatus.DIFFERENT
    assert {row["cause"] for row in report["rows"] if not row["ok"]} == {"rounding"}
    assert main(["verify", url, "--min-latent-cosine", "0.999999"]) == VerifyStatus.DIFFERENT
    assert "Nothing but rounding of bfloat16, bfloat16 was found; --min-latent-cosine 0.99" in capsys.readouterr().out


def test_pixels_are_compared_exactly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, read = LatentOptions("pixels", IMAGES), ImageReader.read
    url = encode(tmp_path / "right", options)
    status, report = verify(capsys, url)
    assert (status, report["num_below"], report["num_rows"]) == (0, 0, 2 * len(SIZES))
    assert run(VerifyConfig(url)) == VerifyStatus.SOUND
    assert "rows of latents are exactly what the manifest and their images say" in capsys.readouterr().out

    def off_by_one(self: ImageReader, data: bytes) -> CroppedImage | Fault:
        image = read(self, data)
        if isinstance(image, CroppedImage) and image.original_size == (64, 64):
            image.pixels[0, 0, 0] ^= 1
        return image

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageReader, "read", off_by_one)
        url = encode(tmp_path / "wrong", options)
    status, report = verify(capsys, url)
    assert (status, report["num_below"]) == (3, 2)
    for row in report["rows"][:2]:
        assert (row["key"], row["cause"]) == ("5", "pixels")
        assert "0.03% of the values differ, by up to 1 levels" in row["text"]


def test_tars_that_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = encode(tmp_path, LatentOptions("pixels", IMAGES))
    shutil.copytree(tmp_path / "in", tmp_path / "moved")
    shutil.rmtree(tmp_path / "in")
    assert main(["verify", url]) == VerifyStatus.ERROR
    error = capsys.readouterr().err
    assert f"[source-missing] {tmp_path}/in/a.tar" in error
    assert "--input" in error
    assert main(["verify", url, "--input", str(tmp_path / "moved")]) == VerifyStatus.SOUND
    assert main(["verify", url, "--input", f"{tmp_path}/moved/*.tar"]) == VerifyStatus.SOUND
    (tmp_path / "moved" / "b.tar").unlink()
    assert main(["verify", url, "--input", str(tmp_path / "moved")]) == VerifyStatus.ERROR
    assert "moved/b.tar" in capsys.readouterr().err


def test_tars_that_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = encode(tmp_path, LatentOptions("pixels", IMAGES))
    tar, here = tmp_path / "in" / "a.tar", ["--input", str(tmp_path / "in")]
    tar.write_bytes(data := tar.read_bytes())
    # The same bytes, written again: another ETag, which the tars' new place need not have.
    assert main(["verify", url]) == VerifyStatus.ERROR
    assert "[source-changed]" in capsys.readouterr().err
    assert main(["verify", url, *here]) == VerifyStatus.SOUND
    tar.write_bytes(data + b"\0" * 512)
    assert main(["verify", url, *here]) == VerifyStatus.ERROR
    assert f"{len(data) + 512} bytes" in capsys.readouterr().err

    # Of one size, with other keys and with other images.
    size = tar_of(tmp_path / "other", "a", prefix="x").num_bytes
    if size <= len(data):
        tar.write_bytes((tmp_path / "other" / "a.tar").read_bytes().ljust(len(data), b"\0"))
        assert main(["verify", url, *here]) == VerifyStatus.ERROR
        assert "with other keys" in capsys.readouterr().err
    blank = [(f"{number}.png", encoded(noise(48, 48, seed=99))) for number in range(len(SIZES))]
    fields = [(f"{number}.txt", b"a caption") for number in range(len(SIZES))]
    members = [member for pair in zip(blank, fields, strict=True) for member in pair]
    assert write_tar(tmp_path / "other" / "a.tar", [*members, ("none.txt", b"")]).num_bytes <= len(data)
    tar.write_bytes((tmp_path / "other" / "a.tar").read_bytes().ljust(len(data), b"\0"))
    capsys.readouterr()
    status, report = verify(capsys, url, input=str(tmp_path / "in"))
    assert status == VerifyStatus.DIFFERENT
    assert {row["cause"] for row in report["rows"] if row["shard"] == "a"} == {"image"}
    assert all(row["ok"] for row in report["rows"] if row["shard"] == "b")
    assert main(["verify", url, *here]) == VerifyStatus.DIFFERENT
    assert "in the tar" in capsys.readouterr().out


def test_an_autoencoder_that_is_not_the_manifests(
    tmp_path: Path, vae: AutoencoderKL, capsys: pytest.CaptureFixture[str]
) -> None:
    url = encode(tmp_path, latents(tmp_path, vae))
    shutil.move(tmp_path / "vae", tmp_path / "elsewhere")
    assert main(["verify", url]) == VerifyStatus.ERROR
    assert str(tmp_path / "vae") in capsys.readouterr().err
    assert main(["verify", url, "--vae.source", str(tmp_path / "elsewhere")]) == VerifyStatus.SOUND
    other = small_autoencoder(scaling_factor=1.0)
    other.encoder.conv_in.weight.data *= 1.5
    save(other, tmp_path / "vae")
    capsys.readouterr()
    assert main(["verify", url]) == VerifyStatus.ERROR
    error = capsys.readouterr().err
    assert "[encoder-differs]" in error
    assert "vae.weights_sha256" in error
    assert "vae.scaling_factor: 1.5305 -> 1.0" in error
    status, report = verify(capsys, url, allow_differences=True)
    assert (status, report["num_below"]) == (3, report["num_rows"])
    assert len(report["differences"]) == 2
    save(small_autoencoder(latent_channels=8), tmp_path / "vae")
    assert main(["verify", url, "--allow-differences"]) == VerifyStatus.ERROR


def test_groups_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Captions and latents of one dataset, checked together or apart."""
    tar = tar_of(tmp_path / "in", "s")
    options = LatentOptions("pixels", IMAGES)
    worker(tmp_path / "in", tmp_path / "out", captions=True, latents=options).encode(tar, ["txt", "latents"], 1)
    url = str(tmp_path / "out")
    assert main(["verify", url, "--json"]) == VerifyStatus.SOUND
    report = json.loads(capsys.readouterr().out)
    assert (report["num_rows"], report["latents"]["num_rows"]) == (len(SIZES) + 1, len(SIZES))
    nowhere = ["--t5.source", str(tmp_path / "nowhere")]
    assert main(["verify", url, *nowhere]) == VerifyStatus.ERROR
    assert main(["verify", url, "--groups", "latents", *nowhere]) == VerifyStatus.SOUND
    # Captions need no tars.
    (tmp_path / "in" / "s.tar").unlink()
    capsys.readouterr()
    assert main(["verify", url, "--groups", "txt", "--json"]) == VerifyStatus.SOUND
    assert json.loads(capsys.readouterr().out)["latents"] is None
    assert main(["verify", url]) == VerifyStatus.ERROR
    assert main(["verify", url, "--groups", "latents", "json.x"]) == VerifyStatus.ERROR
    assert "[group-not-found]" in capsys.readouterr().err


def test_tars_in_a_bucket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with s3_server() as endpoint, s3_bucket(endpoint, "bucket") as client:
        for number, name in enumerate("ab"):
            tar_of(tmp_path / "up", name, seed=10 * number)
            client.upload_file(str(tmp_path / "up" / f"{name}.tar"), "bucket", f"tars/{name}.tar")
        url = encode(tmp_path, LatentOptions("pixels", IMAGES), inputs="s3://bucket/tars")
        shutil.rmtree(tmp_path / "in")
        assert verify(capsys, url)[0] == VerifyStatus.SOUND
        client.delete_object(Bucket="bucket", Key="tars/b.tar")
        assert main(["verify", url, "--sample", "100"]) == VerifyStatus.ERROR
        assert "[source-missing] s3://bucket/tars/b.tar" in capsys.readouterr().err
        assert main(["verify", url, "--input", str(tmp_path / "up")]) == VerifyStatus.SOUND

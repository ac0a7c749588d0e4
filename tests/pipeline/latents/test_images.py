"""Image files of every kind become the pixels Pillow gives for them, and what is no image becomes a reject."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image, ImageFile

from pipeline.latents.buckets import Size
from pipeline.latents.images import CroppedImage, ImageReader
from pipeline.latents.options import ImageConfig
from pipeline.latents.pixel_budget import PixelBudget
from pipeline.sources.caption_text import Fault
from tests.pipeline.latents.pictures import encoded, noise, reference


def read(data: bytes, *buckets: Size, **limits: float) -> CroppedImage | Fault:
    images = ImageConfig(**limits)
    return ImageReader(buckets or ((32, 32),), images, PixelBudget(10**6)).read(data)


def pixels(data: bytes, *buckets: Size, **limits: float) -> np.ndarray:
    found = read(data, *buckets, **limits)
    assert isinstance(found, CroppedImage), found
    assert found.pixels.dtype == np.uint8
    assert found.pixels.flags.c_contiguous
    return found.pixels


@pytest.mark.parametrize(
    ("width", "height"), [(32, 32), (64, 64), (97, 53), (53, 97), (33, 32), (400, 40), (20, 31), (17, 300)]
)
def test_the_middle_is_resized_and_cropped_as_pillow_does_it(width: int, height: int) -> None:
    data = encoded(noise(width, height))
    found = read(data, max_upscale=4)
    assert isinstance(found, CroppedImage)
    assert found.original_size == (height, width)
    # Only what is kept is computed, and rows and columns in another order: rounding may differ by a level or two.
    difference = np.abs(found.pixels.astype(int) - reference(data, 32, 32))
    assert difference.max() <= 2
    assert difference.mean() <= 0.3
    scale = 32 / min(width, height)
    assert found.crop == ((round(height * scale) - 32) // 2, (round(width * scale) - 32) // 2)


def test_an_image_of_the_right_size_is_stored_as_it_is() -> None:
    image = noise(40, 32)
    np.testing.assert_array_equal(pixels(encoded(image)), np.asarray(image)[:, 4:36].transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(60, 32), form, exif=exif)
    found = read(data, (32, 60), (60, 32))
    assert isinstance(found, CroppedImage)
    assert found.original_size == found.size == ((32, 60) if orientation < 5 else (60, 32))
    np.testing.assert_array_equal(found.pixels, reference(data, *found.size))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_turns_nothing() -> None:
    image = noise(32, 32)
    data = encoded(image, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    np.testing.assert_array_equal(pixels(data), np.asarray(image).transpose(2, 0, 1))


def test_transparency_is_put_on_white() -> None:
    image = noise(32, 32).convert("RGBA")
    alpha = np.zeros((32, 32), np.uint8)
    alpha[:, 16:] = 255
    image.putalpha(Image.fromarray(alpha))
    found = pixels(encoded(image))
    assert (found[:, :, :16] == 255).all()
    np.testing.assert_array_equal(found[:, :, 16:], np.asarray(noise(32, 32))[:, 16:].transpose(2, 0, 1))
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert (pixels(encoded(palette, "PNG", transparency=0)) == 255).all()
    assert (pixels(encoded(palette, "PNG"))[:, 5, 5] == [10, 20, 30]).all()


def test_grey_16_bits_and_cmyk_become_rgb() -> None:
    grey = noise(32, 32).convert("L")
    np.testing.assert_array_equal(pixels(encoded(grey)), np.stack([np.asarray(grey)] * 3))
    deep = np.random.default_rng(0).integers(0, 65536, (32, 32)).astype(np.uint16)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(deep))), np.stack([deep >> 8] * 3))
    cmyk = encoded(noise(32, 32).convert("CMYK"), "JPEG")
    np.testing.assert_array_equal(pixels(cmyk), reference(cmyk, 32, 32))
    assert (pixels(encoded(Image.new("1", (32, 32), 1))) == 255).all()


@pytest.mark.parametrize(
    ("size", "bucket"),
    [((100, 100), (32, 32)), ((129, 100), (32, 32)), ((170, 100), (24, 40)), ((100, 500), (40, 24))],
)
def test_the_bucket_nearest_in_aspect_is_taken(size: Size, bucket: Size) -> None:
    found = read(encoded(noise(*size)), (32, 32), (24, 40), (40, 24))
    assert isinstance(found, CroppedImage)
    assert found.size == bucket


JPEG = encoded(noise(64, 64), "JPEG", quality=95)
PNG = encoded(noise(64, 64))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        JPEG[: len(JPEG) // 2],
        PNG[: len(PNG) // 2],
        PNG[:200] + b"\xff" * 50 + PNG[250:],
        encoded(noise(64, 64), "WEBP")[:-100],
        encoded(noise(64, 64), "TIFF"),
        encoded(noise(64, 64), "GIF"),
    ],
    ids=["empty", "text", "half a jpeg", "half a png", "bent png", "cut webp", "tiff", "gif"],
)
def test_what_cannot_be_decoded_is_a_fault(data: bytes) -> None:
    found = read(data)
    assert isinstance(found, Fault)
    assert found.code == "image-undecodable"
    assert found.reason
    assert "0x" not in found.reason, "the same file gives the same words"
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_too_large_and_too_small() -> None:
    assert read(encoded(noise(64, 64)), max_pixels=64 * 64 - 1)[0] == "image-too-large"
    assert pixels(encoded(noise(64, 64)), max_pixels=64 * 64).shape == (3, 32, 32)
    assert read(encoded(noise(40, 15)))[0] == "image-too-small"
    assert pixels(encoded(noise(40, 16))).shape == (3, 32, 32)
    # The header of a bomb: what it declares is never allocated.
    bomb = bytearray(encoded(Image.new("1", (8, 8))))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    assert read(bytes(bomb))[0] in ("image-too-large", "image-undecodable")


def test_a_very_long_image_takes_no_more_memory_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = Image.Image.resize

    def resize(self: Image.Image, size: tuple[int, int], *arguments: object, **options: object) -> Image.Image:
        sizes.append(size)
        return original(self, size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", resize)
    found = read(encoded(Image.new("RGB", (20_000, 20))))
    assert isinstance(found, CroppedImage)
    assert found.crop == (0, 15_984)
    assert sizes == [(32, 32)]


@pytest.mark.parametrize(("first", "second", "waits"), [(60, 50, True), (60, 40, False), (500, 1, True)])
def test_threads_decode_within_a_budget_of_pixels(first: int, second: int, waits: bool) -> None:
    """What is larger than all of it is let in alone."""
    budget, inside = PixelBudget(100), threading.Event()

    def work() -> None:
        with budget.taken(second):
            inside.set()

    thread = threading.Thread(target=work)
    with budget.taken(first):
        thread.start()
        assert inside.wait(0.1 if waits else 30) != waits
    thread.join(timeout=30)
    assert inside.is_set()

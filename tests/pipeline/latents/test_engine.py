"""Batches of the latents' engine: few shapes, every image once and in its place, windows in order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.latents.buckets import Size
from pipeline.latents.engine import EncodedImage, ImageWindow, LatentEngine, batch_sizes
from pipeline.latents.images import CroppedImage

SIZES: list[Size] = [(8, 8), (4, 12), (12, 4)]


class Halved:
    """Stands for the autoencoder's encoder: every second pixel, and NaN for an image whose first pixel is 255."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.shapes: list[tuple[int, ...]] = []

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(images.shape))
        out = images[:, :, ::2, ::2].float()
        out[images[:, 0, 0, 0] == 255] = float("nan")
        return out


def windows(num_rows: list[int], seed: int) -> Iterator[ImageWindow]:
    """Windows of random images of random sizes, some rows without one, some images that give NaN."""
    random, start = np.random.default_rng(seed), 0
    for count in num_rows:
        images: list[CroppedImage | None] = []
        for row in range(start, start + count):
            size = SIZES[random.integers(len(SIZES))]
            pixels = random.integers(0, 255, (3, *size), np.uint8)
            pixels[0, 0, 0] = 255 if random.random() < 0.1 else 0
            images.append(None if random.random() < 0.1 else CroppedImage(pixels, (row, 1), (1, row)))
        yield ImageWindow(start, [str(row) for row in range(start, start + count)], images)
        start += count


@given(st.integers(0, 500), st.integers(1, 64))
def test_batches_are_full_ones_and_powers_of_two(num_images: int, largest: int) -> None:
    sizes = batch_sizes(num_images, largest)
    assert sum(sizes) == num_images
    assert sizes == sorted(sizes, reverse=True)
    assert sizes.count(largest) >= num_images // largest
    assert {size for size in sizes if size != largest} <= {2**power for power in range(largest.bit_length())}


@given(st.lists(st.integers(0, 20), max_size=5), st.integers(0, 1000), st.sampled_from([None, 1, 3, 8]))
def test_every_image_is_encoded_once(num_rows: list[int], seed: int, batch_size: int | None) -> None:
    encoder = Halved()
    engine = LatentEngine(encoder, "float32", batch_size, batch_pixels=5 * 64)  # type: ignore[arg-type] # a stand-in
    given_windows = list(windows(num_rows, seed))
    found = list(engine.encode(iter(given_windows)))
    assert [(out.start, out.keys) for out in found] == [(window.start, window.keys) for window in given_windows]
    num_images = 0
    for window, out in zip(given_windows, found, strict=True):
        for row, (image, encoded) in enumerate(zip(window.images, out.rows, strict=True)):
            assert (row in out.not_finite) == (image is not None and image.pixels[0, 0, 0] == 255)
            if image is None or row in out.not_finite:
                assert encoded is None
                continue
            assert isinstance(encoded, EncodedImage)
            assert (encoded.original_size, encoded.crop, encoded.size) == (image.original_size, image.crop, image.size)
            np.testing.assert_array_equal(encoded.latents, image.pixels[:, ::2, ::2].astype(np.float32))
            assert encoded.latents.base is None, "a batch stays in memory for one of its rows"
        num_images += sum(image is not None for image in window.images)
    assert sum(shape[0] for shape in encoder.shapes) == num_images
    # 5 images of 8 x 8 pixels, 6 of 4 x 12.
    most = [batch_size or 5, batch_size or 6]
    assert all(shape[0] <= (most[0] if shape[2:] == (8, 8) else most[1]) for shape in encoder.shapes)


@pytest.mark.parametrize(("batch_size", "num_shapes"), [(16, 5), (12, 5), (1, 1)])
def test_the_shapes_of_batches_are_few_whatever_the_windows(batch_size: int, num_shapes: int) -> None:
    encoder = Halved()
    engine = LatentEngine(encoder, "float32", batch_size, batch_pixels=1)  # type: ignore[arg-type] # a stand-in
    num_rows = [int(count) for count in np.random.default_rng(0).integers(1, 200, 60)]
    for _ in engine.encode(windows(num_rows, 1)):
        pass
    assert len(set(encoder.shapes)) == num_shapes * len(SIZES)


def test_pixels_are_passed_on() -> None:
    (window,) = windows([12], 3)
    (out,) = LatentEngine(None, "uint8", None, batch_pixels=1).encode([window])
    for image, row in zip(window.images, out.rows, strict=True):
        assert (row is None) == (image is None)
        assert row is None or row.latents is image.pixels

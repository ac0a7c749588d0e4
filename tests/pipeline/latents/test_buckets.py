"""Bucket sizes: of the same area, multiples of the step, in pairs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.latents.buckets import make_buckets, nearest_bucket
from pipeline.latents.options import ImageConfig
from schemas.errors import ConfigError


def test_the_buckets_of_512() -> None:
    assert make_buckets(ImageConfig(crop="center"), 8) == ((512, 512),)
    assert make_buckets(ImageConfig(crop="buckets"), 8) == (
        (384, 640),
        (448, 576),
        (512, 512),
        (576, 448),
        (640, 384),
    )


@given(st.integers(1, 16), st.integers(1, 8), st.floats(1, 8), st.integers(0, 3))
def test_every_set_of_buckets_is_sound(multiple: int, step: int, max_aspect: float, power: int) -> None:
    factor = 2**power
    step *= factor
    resolution = step * multiple
    images = ImageConfig(resolution=resolution, crop="buckets", bucket_step=step, max_aspect=max_aspect)
    buckets = make_buckets(images, factor)
    assert (resolution, resolution) in buckets
    assert buckets == tuple(sorted(set(buckets)))
    for height, width in buckets:
        assert height % step == width % step == 0
        # A step more of the longer side would be too much.
        assert height * width <= resolution**2 < (max(height, width) + step) * min(height, width)
        assert max(height, width) <= max_aspect * min(height, width)
        assert (width, height) in buckets
        assert nearest_bucket(buckets, height, width)[0] / nearest_bucket(buckets, height, width)[1] == height / width


def test_tall_and_wide_are_treated_alike() -> None:
    buckets = make_buckets(ImageConfig(crop="buckets"), 8)
    for height, width in [(100, 113), (100, 115), (100, 148), (100, 150), (10, 1000)]:
        tall, wide = nearest_bucket(buckets, width, height), nearest_bucket(buckets, height, width)
        assert tall == wide[::-1]


@pytest.mark.parametrize(
    ("images", "where"),
    [
        (ImageConfig(resolution=100), "--images.resolution"),
        (ImageConfig(resolution=500, crop="buckets"), "--images.resolution"),
        (ImageConfig(resolution=500, crop="buckets", bucket_step=20), "--images.bucket-step"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(images: ImageConfig, where: str) -> None:
    with pytest.raises(ConfigError, match="image-size-not-multiple") as caught:
        make_buckets(images, 8)
    assert caught.value.where == where

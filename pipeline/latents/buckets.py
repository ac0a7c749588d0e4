"""The sizes images are cropped to, and which of them an image gets."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.latents.options import ImageConfig
from schemas.errors import ConfigError

Size = tuple[int, int]
"""Height and width, pixels."""


def make_buckets(images: ImageConfig, downscale_factor: int) -> tuple[Size, ...]:
    """All sizes that crops may have, ascending.

    Under "buckets": for each height that is a multiple of the step, the widest width with which the area is no more
    than resolution², and the same turned on its side; none more oblong than `max_aspect`.

    Args:
        images: Options.
        downscale_factor: Of the autoencoder, which divides every side.

    Raises:
        ConfigError: Resolution and step do not fit each other, or the autoencoder.
    """
    resolution, step = images.resolution, images.bucket_step
    if images.crop == "center":
        _require_multiple("--images.resolution", resolution, downscale_factor, "the autoencoder's downscaling")
        return ((resolution, resolution),)
    _require_multiple("--images.bucket-step", step, downscale_factor, "the autoencoder's downscaling")
    _require_multiple("--images.resolution", resolution, step, "--images.bucket-step")
    found: set[Size] = set()
    for short in range(step, resolution + 1, step):
        long = resolution * resolution // short // step * step
        if long <= images.max_aspect * short:
            found |= {(short, long), (long, short)}
    return tuple(sorted(found))


def nearest_bucket(buckets: Sequence[Size], height: int, width: int) -> Size:
    """The bucket of the nearest aspect ratio, in logarithms, so that tall and wide images are treated alike."""
    aspect = math.log(height / width)
    return min(buckets, key=lambda bucket: abs(math.log(bucket[0] / bucket[1]) - aspect))


def _require_multiple(option: str, value: int, factor: int, what: str) -> None:
    if value % factor:
        raise ConfigError(
            "image-size-not-multiple",
            where=option,
            expected=f"a multiple of {factor} ({what})",
            actual=str(value),
            remedy=f"choose {max(factor, round(value / factor) * factor)}, for example",
        )

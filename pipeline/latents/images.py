"""From the bytes of an image file to cropped pixels, or to the reason why there are none.

An image is turned as its EXIF says, made RGB (transparency on white, 16 bits to 8, grey and CMYK converted, colour
profiles ignored), resized to cover its bucket and cropped around its middle. The first of several frames counts. What
is damaged is refused: Pillow's LOAD_TRUNCATED_IMAGES stays off, since it fills the rest with grey.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.latents.buckets import Size, nearest_bucket
from pipeline.latents.options import ImageConfig
from pipeline.latents.pixel_budget import PixelBudget
from pipeline.sources.caption_text import Fault

RESAMPLE: Final = "lanczos"
"""Recorded in the identity. Pillow's, in 8 bits a channel, as wide as the reduction is strong (antialiased)."""

_FORMATS = ("JPEG", "PNG", "WEBP")
_JPEG = b"\xff\xd8"
_START_OF_SCAN = b"\xff\xda"
_MAX_SCANS = 500
"""Each scan of a progressive JPEG is a pass over the whole image, and one that changes nothing takes some bytes: a file
of megabytes could take hours. Encoders write about ten; the finest split of all coefficients' bits has some hundred."""
_ORIENTATION_TAG = 0x0112
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow raises for bytes that are no image, or half of one; its parsers leave few of the usual errors out.
_UNDECODABLE = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    OverflowError,
    ArithmeticError,
    AttributeError,
    struct.error,
    zlib.error,
)
_MAX_REASON = 200


@dataclass(frozen=True)
class CroppedImage:
    """An image as it will be stored or encoded.

    Attributes:
        pixels: uint8 [3, height, width], RGB.
        original_size: Height and width of the source image, as it is shown: after EXIF orientation.
        crop: Top and left edge of the crop in the resized image, pixels.
    """

    pixels: npt.NDArray[np.uint8]
    original_size: Size
    crop: Size

    @property
    def size(self) -> Size:
        """Height and width of the crop: the bucket."""
        return self.pixels.shape[1], self.pixels.shape[2]


class ImageReader:
    """Decodes image files, in any number of threads.

    Args:
        buckets: Sizes crops may have.
        images: Limits.
        budget: Pixels that all threads may decode at a time.
    """

    def __init__(self, buckets: Sequence[Size], images: ImageConfig, budget: PixelBudget) -> None:
        self._buckets = buckets
        self._images = images
        self._budget = budget

    def read(self, data: bytes) -> CroppedImage | Fault:
        """The image in a file of any of the known formats, whatever its extension says."""
        num_scans = data.count(_START_OF_SCAN)
        if num_scans > _MAX_SCANS and data.startswith(_JPEG):
            return Fault("image-undecodable", f"a JPEG of up to {num_scans} scans, more than {_MAX_SCANS}")
        image = _attempt(lambda: Image.open(io.BytesIO(data), formats=_FORMATS))
        if isinstance(image, Fault):
            return image
        num_pixels = image.width * image.height
        if num_pixels > self._images.max_pixels:
            found = f"{image.width} x {image.height} pixels"
            return Fault("image-too-large", f"{found}, more than {self._images.max_pixels} in all")
        with image, self._budget.taken(num_pixels):
            shown = _attempt(lambda: _rgb(_turned(image)))
            return shown if isinstance(shown, Fault) else self._crop(shown)

    def _crop(self, image: Image.Image) -> CroppedImage | Fault:
        bucket = nearest_bucket(self._buckets, image.height, image.width)
        scale = max(bucket[0] / image.height, bucket[1] / image.width)
        if scale > self._images.max_upscale:
            reason = f"{image.width} x {image.height} pixels would have to be enlarged {scale:.2f} times to cover"
            return Fault("image-too-small", f"{reason} {bucket[1]} x {bucket[0]}")
        pixels, crop = cover_and_crop(image, bucket)
        return CroppedImage(pixels, (image.height, image.width), crop)


def cover_and_crop(image: Image.Image, bucket: Size) -> tuple[npt.NDArray[np.uint8], Size]:
    """Resizes an RGB image so that it just covers `bucket`, and crops around its middle.

    Only what is inside the crop is computed, so that a very long image takes no more memory than any other.

    Returns:
        uint8 [3, height, width], and the crop's top and left edge in the resized image.
    """
    height, width = bucket
    scale = max(height / image.height, width / image.width)
    resized_height = max(height, round(image.height * scale))
    resized_width = max(width, round(image.width * scale))
    top, left = (resized_height - height) // 2, (resized_width - width) // 2
    if (resized_height, resized_width) == (image.height, image.width):
        cropped = image.crop((left, top, left + width, top + height))
    else:
        x, y = image.width / resized_width, image.height / resized_height
        # Rounding must not carry an edge out of the image.
        right, bottom = min((left + width) * x, image.width), min((top + height) * y, image.height)
        cropped = image.resize((width, height), Image.Resampling.LANCZOS, box=(left * x, top * y, right, bottom))
    return np.ascontiguousarray(np.asarray(cropped).transpose(2, 0, 1)), (top, left)


def _attempt(step: Callable[[], Image.Image]) -> Image.Image | Fault:
    """What Pillow makes of a file, or what it says of one it can make nothing of."""
    try:
        return step()
    except Image.DecompressionBombError as error:
        return Fault("image-too-large", str(error)[:_MAX_REASON])
    except _UNDECODABLE as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        # Pillow names the buffer it read from, by its address.
        return Fault("image-undecodable", reason.partition(" <_io.")[0][:_MAX_REASON])


def _turned(image: Image.Image) -> Image.Image:
    """The image as it is meant to be seen. EXIF that cannot be read turns nothing: cameras and editors damage it."""
    # First the pixels: a PNG may have EXIF behind them.
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except _UNDECODABLE:
        turn = None
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey; the upper byte, as libpng takes it for colours.
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        own = image.convert("RGBA")
        white = Image.new("RGBA", own.size, (255, 255, 255, 255))
        white.alpha_composite(own)
        return white.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")

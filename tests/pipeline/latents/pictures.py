"""Image files for tests, and the plain way to the pixels they should give."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth picture in which no two places look alike."""
    small = np.random.default_rng(seed).integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """The image as a file."""
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def reference(data: bytes, height: int, width: int) -> np.ndarray:
    """uint8 [3, height, width]: opened, turned, resized as a whole and cropped, with nothing but Pillow."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    scale = max(height / image.height, width / image.width)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    image = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height))).transpose(2, 0, 1)

"""Targets that are values: the codec of tensors, and images."""

from __future__ import annotations

import functools
import io
from random import Random

import numpy as np
from PIL import Image

from pipeline.latents.images import ImageReader
from pipeline.latents.options import ImageConfig
from pipeline.latents.pixel_budget import PixelBudget
from pipeline.sources.caption_text import Fault, find_caption, parse_json, read_text
from schemas.planes import STORAGE_DTYPES, merge_planes, planes_column, row_planes, split_planes
from tests.fuzz.mutations import mutate_bytes
from tests.fuzz.target import Finding, Target


def _make_values(random: Random) -> bytes:
    return bytes([random.randrange(4)]) + random.randbytes(random.choice((0, 4, 8, 12, 64, 400, 4096)))


def _read_values(data: bytes) -> str:
    """Any bits go through the planes and come back, NaN and all."""
    name = list(STORAGE_DTYPES)[data[0] % 4]
    dtype = STORAGE_DTYPES[name]
    values = np.frombuffer(data[1 : 1 + (len(data) - 1) // dtype.itemsize * dtype.itemsize], dtype)
    if merge_planes(split_planes(values), name).tobytes() != values.tobytes():
        raise Finding(f"{name} values change in the codec")
    cut = len(values) // 3
    column = planes_column(values, np.array([cut, 0, len(values) - cut], np.int64), name)
    rows = [merge_planes(row_planes(column, row), name).tobytes() for row in range(3)]
    if b"".join(rows) != values.tobytes():
        raise Finding(f"{name} rows change in the column")
    return name


@functools.cache
def _pictures() -> tuple[bytes, ...]:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    picture = Image.fromarray(pixels).resize((40, 32))
    found = []
    for name, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {}),
    ):
        file = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(file, name, exif=exif, **options)
        found.append(file.getvalue())
    grey = io.BytesIO()
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)).save(grey, "PNG")
    return (*found, grey.getvalue())


def _make_image(random: Random) -> bytes:
    data = random.choice(_pictures())
    # Most of what there is to be confused about is at the beginning.
    return mutate_bytes(random, data[:300]) + data[300:] if random.random() < 0.5 else mutate_bytes(random, data)


def _read_image(data: bytes) -> str:
    reader = ImageReader([(32, 32)], ImageConfig(max_pixels=4_000_000), PixelBudget(4_000_000))
    found = reader.read(data)
    return found.code if isinstance(found, Fault) else "image"


def _make_caption(random: Random) -> bytes:
    document = b'{"caption": "a \\u00e9 dog", "a": {"b": {"c": ["x", 1, 2.5e3, null, true]}}, "n": 123456789012345678}'
    deep = (b"[" * 5000, b'{"a":' * 5000)
    return mutate_bytes(random, random.choice((document, document * 2, *deep, b"\xef\xbb\xbf{}")))


def _read_caption(data: bytes) -> str:
    text, document = read_text(data), parse_json(data)
    if isinstance(document, Fault):
        return document.code
    for field in ("caption", "a.b.c", "n", "a"):
        found = find_caption(document, field)
        if not isinstance(found, Fault):
            found.decode()
    return text.code if isinstance(text, Fault) else "object"


VALUES = (
    Target("planes", _make_values, _read_values, 150),
    Target("image", _make_image, _read_image, 150),
    Target("caption", _make_caption, _read_caption, 150),
)

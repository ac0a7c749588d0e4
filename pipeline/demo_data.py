"""Sample caption tars in img2dataset's layout: pictures of shapes, with captions that describe them."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import tyro
from PIL import Image, ImageDraw

from schemas.errors import ConfigError

_COLORS = {
    "red": (214, 48, 49),
    "green": (46, 160, 67),
    "blue": (47, 85, 212),
    "yellow": (240, 200, 30),
    "purple": (140, 60, 180),
    "orange": (240, 130, 30),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
_SHAPES = ("circle", "square", "triangle", "star", "ring")
_SIZES = {"small": 0.18, "": 0.28, "large": 0.40}
_PLACES = {
    "in the middle": (0.5, 0.5),
    "on the left": (0.33, 0.5),
    "on the right": (0.67, 0.5),
    "at the top": (0.5, 0.33),
}
_TEMPLATES = (
    "a {what} {where} on a {ground} background",
    "{what}, {ground} background",
    "A picture of a {what} {where}.",
)


@dataclass(frozen=True)
class DemoDataConfig:
    """Write sample caption tars, as img2dataset lays them out."""

    folder: tyro.conf.Positional[Path]
    """Where to; made if it does not exist."""

    num_shards: int = 4
    """Tars to write."""

    samples_per_shard: int = 128
    """Samples in each."""

    image_size: int = 64
    """Width and height of the pictures, pixels."""

    seed: int = 0
    """The same seed writes the same bytes."""


def run(config: DemoDataConfig) -> int:
    """Writes the tars, with a parquet and a stats file beside each, and says where they are.

    Returns:
        Exit status 0.

    Raises:
        ConfigError: The folder holds tars that are not these.
    """
    config.folder.mkdir(parents=True, exist_ok=True)
    for index in range(config.num_shards):
        _write_shard(config, index)
    total = config.num_shards * config.samples_per_shard
    print(
        f"{total} samples in {config.num_shards} tars in {config.folder} (.jpg .txt .json, as img2dataset writes them)"
    )
    return 0


def _write_shard(config: DemoDataConfig, index: int) -> None:
    rows = [_sample(config, index, number) for number in range(config.samples_per_shard)]
    tar = _tar([member for row in rows for member in row[:3]])
    path = config.folder / f"{index:05d}.tar"
    if path.exists():
        if path.read_bytes() != tar:
            raise ConfigError(
                "demo-data-differs",
                where=str(path),
                expected="no tar of that name, or the one this command writes",
                actual="another file",
                remedy="choose an empty folder",
            )
        return
    path.write_bytes(tar)
    pyarrow.parquet.write_table(pa.Table.from_pylist([row[3] for row in rows]), path.with_suffix(".parquet"))
    stats = {"count": len(rows), "successes": len(rows), "failed_to_download": 0, "failed_to_resize": 0}
    path.with_name(f"{index:05d}_stats.json").write_text(json.dumps(stats, indent=2) + "\n")


def _sample(
    config: DemoDataConfig, shard: int, number: int
) -> tuple[tuple[str, bytes], tuple[str, bytes], tuple[str, bytes], dict[str, Any]]:
    draw = random.Random(f"{config.seed}/{shard}/{number}")
    color, ground = draw.sample(sorted(_COLORS), 2)
    shape, size, place = draw.choice(_SHAPES), draw.choice(sorted(_SIZES)), draw.choice(sorted(_PLACES))
    what = " ".join(word for word in (size, color, shape) if word)
    caption = draw.choice(_TEMPLATES).format(what=what, where=place, ground=ground)
    image = _picture(config.image_size, color, ground, shape, size, place)
    key = f"{shard:05d}{number:04d}"
    facts = {
        "key": key,
        "status": "success",
        "url": f"https://example.com/{key}.jpg",
        "caption": caption,
        "long_caption": f"The picture shows one {what} {place}. Around it is plain {ground}. Nothing else is seen.",
        "width": config.image_size,
        "height": config.image_size,
        "original_width": config.image_size,
        "original_height": config.image_size,
        "sha256": hashlib.sha256(image).hexdigest(),
    }
    members = ((f"{key}.jpg", image), (f"{key}.txt", caption.encode()), (f"{key}.json", json.dumps(facts).encode()))
    return (*members, facts)


def _picture(size: int, color: str, ground: str, shape: str, scale: str, place: str) -> bytes:
    # Drawn four times larger and scaled down: smooth edges.
    full = size * 4
    image = Image.new("RGB", (full, full), _COLORS[ground])
    x, y = (fraction * full for fraction in _PLACES[place])
    radius = _SIZES[scale] * full
    canvas, fill, box = ImageDraw.Draw(image), _COLORS[color], (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        canvas.ellipse(box, fill=fill)
    elif shape == "ring":
        canvas.ellipse(box, outline=fill, width=int(radius * 0.4))
    elif shape == "square":
        canvas.rectangle(box, fill=fill)
    elif shape == "triangle":
        canvas.regular_polygon((x, y, radius), 3, fill=fill)
    else:
        canvas.polygon(_star(x, y, radius), fill=fill)
    out = io.BytesIO()
    image.resize((size, size), Image.Resampling.LANCZOS).save(out, "JPEG", quality=92)
    return out.getvalue()


def _star(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    from math import cos, pi, sin

    points = []
    for index in range(10):
        reach = radius if index % 2 == 0 else radius * 0.42
        angle = -pi / 2 + index * pi / 5
        points.append((x + reach * cos(angle), y + reach * sin(angle)))
    return points


def _tar(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()

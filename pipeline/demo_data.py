"""Sample tars in img2dataset's layout: pictures of shapes, with captions that describe them.

They are what a small model learns in minutes on a CPU: flat colours, few words. `PROMPTS`, written beside the tars, ask
for a colour and a shape on a ground that no picture of the tars has together: who draws them has learnt the words, not
the pictures.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet
import tyro
from PIL import Image, ImageDraw

from schemas.errors import ConfigError

COLORS = {
    "red": (214, 48, 49),
    "green": (46, 160, 67),
    "blue": (47, 85, 212),
    "yellow": (240, 200, 30),
    "purple": (140, 60, 180),
    "orange": (240, 130, 30),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "star", "ring")
SIZES = {"small": 0.18, "": 0.26, "large": 0.34}
"""Radius, as a share of the picture's side."""
PLACES = {
    "in the middle": (0.5, 0.5),
    "on the left": (0.34, 0.5),
    "on the right": (0.66, 0.5),
    "at the top": (0.5, 0.34),
}
"""Centre, as shares of the picture's width and height."""

_CAPTIONS = (
    "a {what} {where} on a {ground} background",
    "{what} on {ground}, {where}",
    "a {ground} background with a {what} {where}",
)
_LONG_CAPTION = "one {what} {where} and all around it is {ground}"


class Scene(NamedTuple):
    """What a picture shows.

    Attributes:
        size: One of `SIZES`; the middle one has no word.
        color: Of the shape.
        shape: One of `SHAPES`.
        place: One of `PLACES`.
        ground: Colour of all the rest.
    """

    size: str
    color: str
    shape: str
    place: str
    ground: str

    def caption(self, template: str) -> str:
        """Describes it."""
        what = " ".join(word for word in (self.size, self.color, self.shape) if word)
        text = template.format(what=what, where=self.place, ground=self.ground)
        return text.replace("a orange", "an orange")


_PROMPTED = (
    Scene("large", "red", "circle", "in the middle", "blue"),
    Scene("large", "yellow", "star", "in the middle", "purple"),
    Scene("", "green", "triangle", "at the top", "white"),
    Scene("large", "white", "ring", "in the middle", "black"),
    Scene("", "purple", "square", "on the left", "yellow"),
    Scene("small", "blue", "circle", "on the right", "orange"),
)
PROMPTS = tuple(scene.caption(_CAPTIONS[0]) for scene in _PROMPTED)
"""One a line in prompts.txt."""

_HELD_OUT = {(scene.color, scene.shape, scene.ground) for scene in _PROMPTED}


@dataclass(frozen=True)
class DemoDataConfig:
    """Write sample tars of pictures and captions, as img2dataset lays them out, and prompts.txt beside them."""

    folder: tyro.conf.Positional[Path]
    """Where to; made if it does not exist."""

    num_shards: int = 4
    """Tars to write."""

    samples_per_shard: int = 512
    """Samples in each."""

    image_size: int = 64
    """Width and height of the pictures, pixels."""

    seed: int = 0
    """The same seed writes the same bytes."""


def run(config: DemoDataConfig) -> int:
    """Writes the tars, with a parquet and a stats file beside each, and the prompts, and says where they are.

    Returns:
        Exit status 0.

    Raises:
        ConfigError: The folder holds files of these names that are not these.
    """
    config.folder.mkdir(parents=True, exist_ok=True)
    for index in range(config.num_shards):
        _write_shard(config, index)
    _publish(config.folder / "prompts.txt", "".join(f"{prompt}\n" for prompt in PROMPTS).encode())
    total = config.num_shards * config.samples_per_shard
    print(
        f"{total} samples in {config.num_shards} tars in {config.folder} (.jpg .txt .json, as img2dataset writes them)"
    )
    print(f"{len(PROMPTS)} prompts in {config.folder / 'prompts.txt'}: colour, shape and ground as no picture has them")
    return 0


def draw(scene: Scene, size: int) -> Image.Image:
    """The picture of a scene, RGB, `size` pixels a side."""
    # Drawn four times larger and scaled down: smooth edges.
    full = size * 4
    image = Image.new("RGB", (full, full), COLORS[scene.ground])
    x, y = (share * full for share in PLACES[scene.place])
    radius = SIZES[scene.size] * full
    canvas, fill, box = ImageDraw.Draw(image), COLORS[scene.color], (x - radius, y - radius, x + radius, y + radius)
    if scene.shape == "circle":
        canvas.ellipse(box, fill=fill)
    elif scene.shape == "ring":
        canvas.ellipse(box, outline=fill, width=int(radius * 0.4))
    elif scene.shape == "square":
        side = radius * 0.85
        canvas.rectangle((x - side, y - side, x + side, y + side), fill=fill)
    elif scene.shape == "triangle":
        canvas.regular_polygon((x, y, radius), 3, fill=fill)
    else:
        canvas.polygon(_star(x, y, radius), fill=fill)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def _star(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    points = []
    for index in range(10):
        reach = radius if index % 2 == 0 else radius * 0.45
        angle = -math.pi / 2 + index * math.pi / 5
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return points


def _write_shard(config: DemoDataConfig, index: int) -> None:
    rows = [_sample(config, index, number) for number in range(config.samples_per_shard)]
    path = config.folder / f"{index:05d}.tar"
    if not _publish(path, _tar([member for row in rows for member in row[:3]])):
        return
    pyarrow.parquet.write_table(pa.Table.from_pylist([row[3] for row in rows]), path.with_suffix(".parquet"))
    stats = {"count": len(rows), "successes": len(rows), "failed_to_download": 0, "failed_to_resize": 0}
    path.with_name(f"{index:05d}_stats.json").write_text(json.dumps(stats, indent=2) + "\n")


def _publish(path: Path, content: bytes) -> bool:
    """Writes a file, unless it is there already; tells whether it was written."""
    if not path.exists():
        path.write_bytes(content)
        return True
    if path.read_bytes() != content:
        raise ConfigError(
            "demo-data-differs",
            where=str(path),
            expected="no file of that name, or the one this command writes",
            actual="another file",
            remedy="choose an empty folder",
        )
    return False


def _sample(
    config: DemoDataConfig, shard: int, number: int
) -> tuple[tuple[str, bytes], tuple[str, bytes], tuple[str, bytes], dict[str, Any]]:
    chance = random.Random(f"{config.seed}/{shard}/{number}")
    scene = _scene(chance)
    caption = scene.caption(chance.choice(_CAPTIONS))
    image = _jpeg(draw(scene, config.image_size))
    key = f"{shard:05d}{number:04d}"
    facts = {
        "key": key,
        "status": "success",
        "url": f"https://example.com/{key}.jpg",
        "caption": caption,
        "long_caption": scene.caption(_LONG_CAPTION),
        "width": config.image_size,
        "height": config.image_size,
        "original_width": config.image_size,
        "original_height": config.image_size,
        "sha256": hashlib.sha256(image).hexdigest(),
    }
    members = ((f"{key}.jpg", image), (f"{key}.txt", caption.encode()), (f"{key}.json", json.dumps(facts).encode()))
    return (*members, facts)


def _scene(chance: random.Random) -> Scene:
    """Any that is not kept for the prompts."""
    while True:
        color, ground = chance.sample(sorted(COLORS), 2)
        shape, size, place = chance.choice(SHAPES), chance.choice(sorted(SIZES)), chance.choice(sorted(PLACES))
        if (color, shape, ground) not in _HELD_OUT:
            return Scene(size, color, shape, place, ground)


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    # Colours at full resolution: a small picture's edges would bleed.
    image.save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def _tar(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()

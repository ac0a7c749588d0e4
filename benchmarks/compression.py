"""How planes are compressed: as Arrow's own codec does it, and as we do (`schemas/compression.py`).

    python -m benchmarks.compression --output benchmarks/results/compression.json

One thread compresses each plane both ways; Arrow's decoder, which reads both, takes it apart again. The planes are of

- the values that the loader's benchmark makes up, scaled so that they compress as real hidden states do;
- what encoders of the real widths with random weights, an eighth of the layers, say of made-up captions;
- for comparison what does repeat: the demo's pictures, and captions.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.encode.captions import captions_of
from benchmarks.encode.models import caption_tokenizer, random_models
from benchmarks.encode.sizes import SIZES as ENCODER_SIZES
from benchmarks.loader import values
from pipeline.demo_data import COLORS, PLACES, SHAPES, SIZES, Scene, draw
from pipeline.provenance import library_versions
from schemas import compression
from schemas.identity import ENCODER_NAMES, EncoderName
from schemas.planes import split_planes

_ROWS = 32
"""Of a chunk."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Config:
    """What to measure."""

    size: str = "wide"
    """Of the encoders: `benchmarks.encode`'s."""
    repetitions: int = 7
    """Of each measurement; the fastest counts."""
    output: Path | None = None
    """Where to write the figures as JSON."""


@dataclass(frozen=True)
class Row:
    """One plane, one way.

    Attributes:
        source: Whose plane.
        way: arrow: Arrow's ZSTD level 1; ours: as chunks are written.
        num_bytes: Of the plane.
        share: Of them, what is stored.
        compress: Bytes a second of one thread, in GB.
        decompress: Likewise; Arrow's decoder.
    """

    source: str
    way: str
    num_bytes: int
    share: float
    compress: float
    decompress: float


def made_up_planes() -> dict[str, bytes]:
    """The high and the low byte of each encoder's hidden states, row after row."""
    samples = [values.tensors(values.sample(index)) for index in range(_ROWS)]
    planes = {}
    for name in ENCODER_NAMES:
        hidden = np.stack([sample[name] for sample in samples]).view(ml_dtypes.bfloat16)
        planes |= _named(f"made up, {name}", hidden)
    return planes


def encoded_planes(size: str) -> dict[str, bytes]:
    """The same of encoders with random weights, padded to 77 tokens."""
    models = random_models(ENCODER_SIZES[size], torch.device("cpu"), torch.float32)
    captions = captions_of("short", _ROWS, caption_tokenizer("t5", values.NUM_TOKENS))
    planes = {}
    for name in ENCODER_NAMES:
        planes |= _named(f"random weights, {name}", _hidden(models.modules[name], name, captions))
    return planes


def repeating_planes() -> dict[str, bytes]:
    """Pictures as pixels, and captions."""
    scenes = itertools.islice(itertools.product(SIZES, COLORS, SHAPES, PLACES, COLORS), 0, None, 17)
    drawn = [draw(Scene(*scene), 64) for scene in itertools.islice(scenes, _ROWS)]
    pictures = b"".join(np.asarray(picture).transpose(2, 0, 1).tobytes() for picture in drawn)
    captions = captions_of("medium", 1024, caption_tokenizer("t5", 256))
    return {"the demo's pictures": pictures, "captions": "".join(captions).encode()}


def measured(source: str, plane: bytes, repetitions: int) -> list[Row]:
    """A plane both ways."""
    rows = []
    arrow = pa.Codec("zstd", compression_level=1)
    ways: dict[str, Callable[[], bytes | None]] = {
        "arrow": lambda: arrow.compress(plane, asbytes=True),
        "ours": lambda: compression.compress([memoryview(plane)])[0],
    }
    for way, compress in ways.items():
        frame, seconds = _fastest(compress, repetitions)
        # What does not compress is read where it lies.
        reading = 0.0 if frame is None else _fastest(lambda: arrow.decompress(frame, len(plane)), repetitions)[1]  # noqa: B023
        rows.append(
            Row(
                source,
                way,
                len(plane),
                1.0 if frame is None else len(frame) / len(plane),
                len(plane) / seconds / 1e9,
                len(plane) / reading / 1e9 if reading else float("inf"),
            )
        )
    return rows


def _named(name: str, hidden: npt.NDArray[np.generic]) -> dict[str, bytes]:
    return {f"{name}, p{index}": plane.tobytes() for index, plane in enumerate(split_planes(hidden))}


@torch.inference_mode()
def _hidden(module: torch.nn.Module, name: EncoderName, captions: list[str]) -> npt.NDArray[np.generic]:
    tokenizer = caption_tokenizer(name, values.NUM_TOKENS)
    ids = torch.full((len(captions), values.NUM_TOKENS), tokenizer.pad_id)
    for row, found in zip(ids, tokenizer(captions).ids, strict=True):
        row[: len(found)] = torch.as_tensor(np.asarray(found, np.int64))
    out = module(input_ids=ids, output_hidden_states=True)
    hidden = out.last_hidden_state if name == "t5" else out.hidden_states[-2]
    return hidden.float().numpy().astype(ml_dtypes.bfloat16)


def _fastest(call: Callable[[], _T], repetitions: int) -> tuple[_T, float]:
    best = float("inf")
    for _ in range(repetitions):
        started = time.perf_counter()
        found = call()
        best = min(best, time.perf_counter() - started)
    return found, best


def main(config: Config) -> None:
    pa.set_cpu_count(1)
    planes = made_up_planes() | encoded_planes(config.size) | repeating_planes()
    rows = [row for source, plane in planes.items() for row in measured(source, plane, config.repetitions)]
    table = Table("plane", "way", "MB", "share stored", "compress GB/s", "decompress GB/s")
    for row in rows:
        speeds = [f"{row.compress:.2f}", "no copy" if row.decompress == float("inf") else f"{row.decompress:.2f}"]
        table.add_row(row.source, row.way, f"{row.num_bytes / 1e6:.1f}", f"{row.share:.4f}", *speeds)
    Console().print(table)
    if config.output is not None:
        about = {
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "date": datetime.now(UTC).date().isoformat(),
            "versions": library_versions(),
            "rows": [asdict(row) | ({"decompress": None} if row.decompress == float("inf") else {}) for row in rows],
        }
        config.output.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))

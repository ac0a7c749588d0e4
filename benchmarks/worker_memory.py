"""Peak memory of a worker against the size of its tar: `python benchmarks/worker_memory.py [--captions 1000 100000]`.

Each size runs in a process of its own, without ray: read, tokenize, encode with the demo's random-weight encoders,
compress, commit. Peak memory is the process's high-water mark (VmHWM). The tensors are an eighth as wide as the real
ones and the chunks, windows and parts as large in bytes, so what would grow with the tar grows here as well.
"""

from __future__ import annotations

import io
import json
import os
import platform
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import tyro

from pipeline.provenance import library_versions

_WORDS = [
    "red",
    "blue",
    "green",
    "old",
    "new",
    "small",
    "large",
    "cat",
    "dog",
    "house",
    "tree",
    "river",
    "photo",
    "painting",
    "street",
    "sky",
    "glass",
    "wood",
    "night",
    "day",
]


@dataclass(frozen=True)
class Config:
    """What to measure."""

    captions: tuple[int, ...] = (1_000, 100_000)
    """Captions of each tar."""
    padding: Literal["none", "max_length"] = "none"
    """Padding policy."""
    part_bytes: int = 64 * 1024**2
    """As for `encode`."""
    output: Path | None = None
    """Where to write the figures as JSON."""
    one: Path | None = None
    """Used by the benchmark itself: encode this tar and print the figures."""


def main(config: Config) -> None:
    if config.one is not None:
        print(json.dumps(_measure(config.one, config.padding, config.part_bytes)))
        return
    rows = []
    for count in config.captions:
        with tempfile.TemporaryDirectory() as folder:
            tar = Path(folder) / "captions.tar"
            _write_tar(tar, count)
            arguments = [sys.executable, __file__, "--one", str(tar), "--padding", config.padding]
            arguments += ["--part-bytes", str(config.part_bytes)]
            done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True)
            rows.append({"captions": count, "tar_bytes": tar.stat().st_size, **json.loads(done.stdout)})
        print(rows[-1], flush=True)
    growth = round(rows[-1]["peak_mb"] - rows[0]["peak_mb"])
    sizes = f"from {rows[0]['captions']:,} to {rows[-1]['captions']:,} captions"
    print(f"padding {config.padding}: {sizes} the peak grows by {growth} MB")
    if config.output is not None:
        facts = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
            "versions": library_versions(),
            "padding": config.padding,
        }
        config.output.parent.mkdir(parents=True, exist_ok=True)
        config.output.write_text(json.dumps({**facts, "rows": rows, "growth_mb": growth}, indent=2) + "\n")


def _write_tar(path: Path, count: int) -> None:
    draw = random.Random(0)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(count):
            caption = f"{' '.join(draw.choices(_WORDS, k=draw.randint(3, 12)))} {number}".encode()
            for suffix, data in (("jpg", b"\xff" * 2000), ("txt", caption)):
                info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def _measure(tar: Path, padding: Literal["none", "max_length"], part_bytes: int) -> dict[str, float]:
    from pipeline.encoders import EncoderConfig, load_encoder
    from pipeline.process_settings import apply_process_settings
    from pipeline.provenance import now
    from pipeline.shard_encoder import EngineSettings, ShardEncoder
    from pipeline.sources import list_inputs
    from pipeline.windows import default_chunk_rows
    from schemas.identity import ENCODER_NAMES, CaptionIdentity
    from schemas.manifest import Layout, Manifest, Provenance, create_or_require_same
    from schemas.storage import Store

    apply_process_settings(num_threads=2)
    encoders = {
        name: load_encoder(
            name,
            EncoderConfig(source="random"),
            padding=padding,
            compute_dtype="bfloat16",
            storage_dtype="bfloat16",
            device="cpu",
        )
        for name in ENCODER_NAMES
    }
    identity = CaptionIdentity(**{name: encoders[name].identity for name in ENCODER_NAMES})
    with tempfile.TemporaryDirectory() as folder:
        inputs, dataset = list_inputs(str(tar)), Store(folder)
        manifest = Manifest(
            layout=Layout(container="arrow", chunk_rows=default_chunk_rows(identity), part_bytes=part_bytes),
            captions=identity,
            created=Provenance(run_id="benchmark", time=now(), versions={}),
        )
        create_or_require_same(dataset, manifest)
        worker = ShardEncoder(inputs.store, dataset, manifest, encoders, EngineSettings(), "benchmark", "cpu")
        loaded, started = _memory_mb("VmRSS"), time.perf_counter()
        result = worker.encode(inputs.tars[0], ["txt"], 1)
        return {
            "loaded_mb": loaded,
            "peak_mb": _memory_mb("VmHWM"),
            "seconds": round(time.perf_counter() - started, 1),
            "stored_mb": round(result.counters.num_bytes / 1e6, 1),
            "padding_share": round(result.counters.padding_share, 3),
        }


def _memory_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e3, 1)


if __name__ == "__main__":
    main(tyro.cli(Config))

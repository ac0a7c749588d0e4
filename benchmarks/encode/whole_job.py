"""Two whole jobs on the same tars, weights and cores: ours, and Ray Data with padded forwards and `.npy` files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.encode.captions import captions_of, length_figures, write_tars
from benchmarks.encode.models import Models, caption_tokenizer
from benchmarks.encode.sizes import T5_TOKENS
from schemas.dataset import open_dataset

_ROOT = Path(__file__).parents[2]
_REQUIREMENTS = Path(__file__).parent / "ray_data_requirements.txt"
_JOB_SECONDS = 1200


def ray_data_packages(folder: Path) -> Path:
    """The packages that Ray Data needs and this project does not, from the configured package index.

    Args:
        folder: Where they are, or are to be.
    """
    made, wanted = folder / "installed.txt", _REQUIREMENTS.read_text()
    if not made.exists() or made.read_text() != wanted:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--upgrade", "--target", str(folder), "-r", str(_REQUIREMENTS)], check=True)
        made.write_text(wanted)
    return folder


def whole_jobs(
    models: Models, folder: Path, packages: Path, *, batch_size: int, dtype: str, cores: int
) -> dict[str, Any]:
    """Runs both from the shell's command to their end, imports, start of Ray and loading included.

    Args:
        models: Written to disk in float32, as published checkpoints are.
        folder: For everything; empty afterwards.
        packages: Of `ray_data_packages`.
        batch_size: Of the other job: what was best for diffusers.
        dtype: It computes in.
        cores: Of both.

    Raises:
        RuntimeError: A job failed, or did not encode every caption.
    """
    size, tokenizer = models.size, caption_tokenizer("t5", T5_TOKENS)
    captions = captions_of("short", size.num_job_captions, tokenizer, seed=1)
    tars, weights, ours, theirs = (folder / name for name in ("tars", "models", "ours", "theirs"))
    try:
        write_tars(tars, captions, size.num_job_tars)
        models.save(weights)
        sources = [
            word
            for name in ("clip-l", "clip-g", "t5")
            for word in (f"--{name}.source", str(weights / name.replace("-", "_")))
        ]
        encode = ["pipeline", "encode", "compact", "--input", str(tars), "--output", str(ours), "--device", "cpu"]
        ours_seconds = _seconds([*encode, *sources], _ROOT)
        peer = ["benchmarks.encode.ray_data_job", str(tars), str(weights), str(theirs)]
        options = ["--batch-size", str(batch_size), "--dtype", dtype, "--threads", str(cores)]
        theirs_seconds = _seconds([*peer, *options], packages)
        _require_all(ours, theirs, len(captions))
        ours_bytes, theirs_bytes = _num_bytes(ours), _num_bytes(theirs)
        return {
            "captions": len(captions),
            "t5_tokens": length_figures([len(ids) for ids in tokenizer(captions).ids]),
            "cores": cores,
            "ours": _job(len(captions), ours_seconds, ours_bytes),
            "ray_data": _job(len(captions), theirs_seconds, theirs_bytes) | {"batch_size": batch_size, "dtype": dtype},
            "ratio": round(theirs_seconds / ours_seconds, 3),
            "bytes_ratio": round(ours_bytes / theirs_bytes, 4),
        }
    finally:
        for made in (tars, weights, ours, theirs):
            shutil.rmtree(made, ignore_errors=True)


def _job(count: int, seconds: float, num_bytes: int) -> dict[str, float]:
    return {
        "seconds": round(seconds, 1),
        "captions_per_second": round(count / seconds, 2),
        "bytes_per_caption": round(num_bytes / count),
    }


def _seconds(arguments: list[str], path: Path) -> float:
    started = time.perf_counter()
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    variables["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=_ROOT,
        env=variables,
        capture_output=True,
        text=True,
        timeout=_JOB_SECONDS,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - started


def _require_all(ours: Path, theirs: Path, count: int) -> None:
    encoded, files = open_dataset(str(ours)).num_rows("txt"), len(list(theirs.glob("*.t5.npy")))
    if encoded != count or files != count:
        raise RuntimeError(f"of {count} captions, {encoded} and {files} were encoded")


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

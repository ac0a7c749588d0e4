"""The machine: versions, clocks, cores, memory, and what it can do at most."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.encode.matrix_product import product_rates
from benchmarks.encode.sizes import SIZES as ENCODE_SIZES
from benchmarks.encode.timing import synchronize
from benchmarks.gpu.section import Context
from pipeline.process_settings import apply_process_settings

_ROOT = Path(__file__).parents[2]
_PACKAGES = (
    *("torch", "triton", "transformers", "tokenizers", "diffusers", "open_clip_torch", "ftfy", "numpy", "ml_dtypes"),
    *("pyarrow", "pydantic", "obstore", "xxhash", "flatbuffers", "zstandard", "safetensors", "sentencepiece", "pillow"),
    "numba",
)
_MODULES = (
    *("transformers", "diffusers", "open_clip", "ftfy", "ml_dtypes", "pyarrow", "pydantic", "obstore", "xxhash"),
    *("flatbuffers", "zstandard", "safetensors", "PIL", "numba"),
    *("pipeline.shard_encoder", "pipeline.latents", "trainer.stream.loader", "trainer.loop"),
)
_QUERY = (
    "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu,"
    "clocks_throttle_reasons.active"
)


def run(context: Context) -> None:
    """Records the machine; checks that everything that later sections import can be imported."""
    result, is_cuda = context.result, context.device == "cuda"
    apply_process_settings(context.cores)
    facts = result.facts
    facts["versions"] = {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}
    facts["commit"] = _output(["git", "-C", str(_ROOT), "rev-parse", "HEAD"]) or "unknown"
    facts["machine"] = {
        "processor": _first_line(Path("/proc/cpuinfo"), "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _first_line(Path("/proc/meminfo"), "MemTotal"),
        "kernel": platform.release(),
        "load_average": os.getloadavg(),
        "disk_free_gb": round(shutil.disk_usage(context.folder).free / 1e9),
        "compiler": shutil.which("cc") or shutil.which("gcc"),
    }
    facts["cuda"] = torch.version.cuda
    facts["cudnn"] = torch.backends.cudnn.version() if is_cuda else None
    facts["cudnn_sdp_enabled"] = torch.backends.cuda.cudnn_sdp_enabled()
    facts["nvidia_smi"] = dict(zip(_QUERY.split(","), (_output(_smi()) or "").split(", "), strict=False))
    result.save()
    missing = [f"{name}: {error}" for name in _MODULES if (error := _import_error(name))]
    result.check("every package can be imported", not missing, "; ".join(missing) or f"{len(_MODULES)} modules")
    # Its plans are per shape and per thread.
    result.check("cuDNN's attention is off", not facts["cudnn_sdp_enabled"], f"enabled: {facts['cudnn_sdp_enabled']}")
    if is_cuda:
        properties = torch.cuda.get_device_properties(0)
        facts["gpu"] = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gb": round(properties.total_memory / 1e9, 1),
        }
    result.note(*_lines(facts))
    _measure_ceilings(context)


def _measure_ceilings(context: Context) -> None:
    result, device = context.result, torch.device(context.device)
    num_bytes = 2**24 if context.is_tiny else 2**32
    # Random: a GPU moves and multiplies zeros faster.
    here = torch.randn(num_bytes // 4, device=device)
    there = torch.empty_like(here)
    rates = {"copy on the device, read and written": 2 * num_bytes / _seconds(lambda: there.copy_(here), device)}
    if device.type == "cuda":
        part = here[: len(here) // 8]
        pinned = torch.empty(len(part), pin_memory=True)
        down = _seconds(lambda: pinned.copy_(part, non_blocking=True), device)
        up = _seconds(lambda: part.copy_(pinned, non_blocking=True), device)
        rates["device to page-locked memory"] = part.nbytes / down
        rates["page-locked memory to device"] = part.nbytes / up
    products = product_rates(ENCODE_SIZES[context.sizes.real], device, torch.bfloat16)
    result.facts["bytes_per_second"] = rates
    result.facts["product_flops_per_second"] = products
    result.note(
        *(f"- {name}: {rate / 1e9:,.1f} GB/s" for name, rate in rates.items()),
        *(f"- bfloat16 product {shape}: {rate / 1e12:,.3g} TFLOP/s" for shape, rate in products.items()),
    )


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The median of some, after warming up."""
    found = []
    for _ in range(8):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        found.append(time.perf_counter() - started)
    return sorted(found[3:])[2]


def _lines(facts: dict) -> list[str]:
    lines = [f"- commit: {facts['commit']}"]
    for name in ("gpu", "nvidia_smi", "machine"):
        lines.append(f"- {name}: " + ", ".join(f"{key} {value}" for key, value in facts.get(name, {}).items()))
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines.append(f"- versions: {versions}, CUDA {facts['cuda']}, cuDNN {facts['cudnn']}")
    return lines


def _smi() -> list[str]:
    return ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"]


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else None


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _import_error(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except Exception as error:  # of libraries that do not fit together, every kind
        return f"{type(error).__name__}: {error}"
    return None


def _first_line(path: Path, start: str) -> str:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(start)), "unknown")

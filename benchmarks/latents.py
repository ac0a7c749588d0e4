"""How fast and how exactly images become latents, by what the autoencoder computes in and how its activations lie.

    python -m benchmarks.latents --output benchmarks/results/latents.json

Stable Diffusion 3's encoder with random weights, on the GPU if there is one. Each variant encodes the same batch in
turn, several times; the fastest counts. Errors are against float32, one image at a time. The last line is the whole
engine, copies included, beside its encoder alone: what overlapping leaves of the copies.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import tyro
from diffusers import AutoencoderKL
from PIL import Image

from benchmarks.encode.timing import seconds_of
from pipeline.latents import LatentOptions, load_latents
from pipeline.latents.autoencoder import LatentEncoder
from pipeline.latents.engine import ImageWindow, LatentEngine
from pipeline.latents.images import CroppedImage
from pipeline.latents.options import VaeConfig
from pipeline.process_settings import require_exact_float32
from pipeline.provenance import library_versions
from pipeline.verification.comparison import compare


@dataclass(frozen=True)
class Config:
    """What to measure."""

    side: int = 512
    """px"""
    batch: int = 16
    """Images."""
    windows: int = 4
    """Batches that the whole engine encodes."""
    repetitions: int = 5
    """Of each variant, in turn; the fastest counts."""
    width: int = 128
    """Channels of the first level; 128 is Stable Diffusion 3's."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    output: Path | None = None
    """Where to write the figures as JSON."""


@dataclass(frozen=True)
class Figures:
    """Of one variant.

    Attributes:
        name: What it computes in, and how its activations lie.
        images_per_second: The fastest.
        relative_error: Largest of any image, against float32.
        cosine: Smallest of any image.
    """

    name: str
    images_per_second: float
    relative_error: float
    cosine: float


def main(config: Config) -> None:
    """Measures and prints."""
    require_exact_float32()
    device = torch.device(config.device)
    images = torch.from_numpy(np.stack([_image(config.side, seed) for seed in range(config.batch)]))
    with TemporaryDirectory() as folder:
        _save(Path(folder), config.width)
        options = LatentOptions("autoencoder_kl", vae=VaeConfig(folder))
        encoders = {dtype: _load(options, dtype, config.device) for dtype in ("float32", "bfloat16")}
        vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.bfloat16, low_cpu_mem_usage=False).to(device)
    there = images.to(device)
    exact = torch.cat([encoders["float32"].encode(image[None]) for image in there]).cpu().numpy()
    variants: dict[str, Callable[[], torch.Tensor]] = {
        "float32": lambda: encoders["float32"].encode(there),
        "bfloat16, diffusers, channels first": lambda: _diffusers(vae, there),
        "bfloat16": lambda: encoders["bfloat16"].encode(there),
    }
    found = _measure(config, variants, exact, device)
    for row in found:
        ratio = row.images_per_second / found[0].images_per_second
        print(
            f"{row.name:<38}{row.images_per_second:10.2f} images/s{ratio:8.2f} x"
            f"   relative error {row.relative_error:.2e}   cosine {row.cosine:.6f}"
        )
    share = _engine_share(config, encoders["bfloat16"], images.numpy(), device)
    print(f"whole engine / its encoder alone: {share:.3f}")
    if config.output is not None:
        body = {
            "config": asdict(config) | {"output": None},
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "versions": library_versions(),
            "variants": [asdict(row) for row in found],
            "engine_share": share,
        }
        config.output.write_text(json.dumps(body, indent=2) + "\n")


def _measure(
    config: Config, variants: dict[str, Callable[[], torch.Tensor]], exact: np.ndarray, device: torch.device
) -> list[Figures]:
    values = {name: work().float().cpu().numpy() for name, work in variants.items()}
    seconds = dict.fromkeys(variants, float("inf"))
    for _ in range(config.repetitions):
        for name, work in variants.items():
            seconds[name] = min(seconds[name], seconds_of(work, device))
    rows = []
    for name in variants:
        figures = [compare(a.ravel(), b.ravel()) for a, b in zip(values[name], exact, strict=True)]
        error, cosine = max(one.relative_error for one in figures), min(one.cosine for one in figures)
        rows.append(Figures(name, config.batch / seconds[name], error, cosine))
    return rows


def _engine_share(config: Config, encoder: LatentEncoder, pixels: np.ndarray, device: torch.device) -> float:
    """Images a second of the whole engine over those of its encoder on batches that lie on the device, in turn."""
    images = [CroppedImage(one, (config.side, config.side), (0, 0)) for one in pixels]
    windows = [ImageWindow(0, [""] * len(images), images)] * config.windows
    engine = LatentEngine(encoder, "bfloat16", config.batch, batch_pixels=1)
    there = torch.from_numpy(pixels).to(device)

    def alone() -> None:
        for _ in windows:
            encoder.encode(there)

    def whole() -> None:
        for _ in engine.encode(windows):
            pass

    best: Sequence[float] = [float("inf"), float("inf")]
    for _ in range(config.repetitions):
        best = [min(before, seconds_of(work, device)) for before, work in zip(best, (whole, alone), strict=True)]
    return best[1] / best[0]


def _image(side: int, seed: int) -> np.ndarray:
    """uint8 [3, side, side], smooth, with details of all sizes, as photographs have them."""
    random, out = np.random.default_rng(seed), np.zeros((side, side, 3))
    for cells in (4, 8, 16, 32, 64, 128):
        small = Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8))
        out += np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)) * (4 / cells)
    levels = (out - out.min()) / (out.max() - out.min()) * 255
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(2, 0, 1))


def _save(folder: Path, width: int) -> None:
    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        layers_per_block=2,
        latent_channels=16,
        shift_factor=0.0609,
        scaling_factor=1.5305,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).save_pretrained(folder)


def _load(options: LatentOptions, compute_dtype: str, device: str) -> LatentEncoder:
    _, encoder = load_latents(options, "float32" if compute_dtype == "float32" else "bfloat16", device)
    assert encoder is not None
    return encoder


@torch.inference_mode()
def _diffusers(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    mode = vae.encode((images.float() / 127.5 - 1).to(vae.dtype)).latent_dist.mode().float()
    latents: torch.Tensor = (mode - vae.config.shift_factor) * vae.config.scaling_factor
    return latents


if __name__ == "__main__":
    started = time.perf_counter()
    main(tyro.cli(Config))
    print(f"{time.perf_counter() - started:.0f} s")

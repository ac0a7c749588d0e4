"""Values of image latents through the whole path, beside diffusers' autoencoder in float32, one image at a time."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from benchmarks.gpu.section import Context
from pipeline.engine_settings import CPU_SETTINGS, GPU_SETTINGS
from pipeline.latents import LatentOptions, load_latents
from pipeline.latents.groups import LatentGroups
from pipeline.latents.options import ImageConfig, VaeConfig
from pipeline.process_settings import apply_process_settings
from pipeline.shard_encoder import ShardEncoder
from pipeline.sources import list_inputs
from schemas.dataset import open_dataset
from schemas.identity import LatentIdentity
from schemas.latent_manifest import LATENTS_GROUP, LatentManifest, create_latents_or_require_same
from schemas.manifest import Layout, Provenance
from schemas.storage import Store

_SHAPES = 3
_ALLOWED: Mapping[Literal["float32", "bfloat16"], float] = {"float32": 5e-3, "bfloat16": 0.1}
"""Relative error (Euclidean norm) of an image's latents as they are stored, in bfloat16: rounding alone is 2e-3."""
_CREATED = Provenance(run_id="benchmark", time="2026-01-01T00:00:00+00:00", versions={})


def run(context: Context) -> None:
    """Both compute dtypes, images of several sizes."""
    apply_process_settings(context.cores)
    vae, source = _autoencoder(context)
    images = ImageConfig(context.sizes.image_side, "buckets", context.sizes.image_side // 4)
    for dtype, allowed in _ALLOWED.items():
        options = LatentOptions("autoencoder_kl", images, VaeConfig(str(source), compute_dtype=dtype))
        _compare(context, vae, options, allowed)


def _autoencoder(context: Context) -> tuple[AutoencoderKL, Path]:
    """Stable Diffusion 3's, or a small one, with random weights."""
    torch.manual_seed(0)
    widths = (8, 16) if context.is_tiny else (128, 256, 512, 512)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1 if context.is_tiny else 2,
        norm_num_groups=4 if context.is_tiny else 32,
        latent_channels=16,
        shift_factor=0.0609,
        scaling_factor=1.5305,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
    vae.save_pretrained(context.folder / "vae")
    return vae.to(context.device), context.folder / "vae"


def _compare(context: Context, vae: AutoencoderKL, options: LatentOptions, allowed: float) -> None:
    result, dtype = context.result, options.vae.compute_dtype
    identity, encoder = load_latents(options, dtype, context.device)
    images = _images(identity, context.sizes.num_images)
    tars = context.folder / "tars"
    if not tars.exists():
        _write_tar(tars / "00000.tar", images)
    inputs = list_inputs(str(tars))
    first: list[str] = []
    for number in range(context.sizes.repetitions):
        folder = context.folder / f"latents-{dtype}-{number}"
        store, layout = Store(str(folder)), Layout(container="arrow", chunk_rows=8, part_bytes=64 * 1024**2)
        manifest = LatentManifest(layout=layout, latents=identity, created=_CREATED)
        manifest = create_latents_or_require_same(store, manifest)
        settings = GPU_SETTINGS if context.device == "cuda" else CPU_SETTINGS
        # One chunk a window, in batches of about four images.
        settings = dataclasses.replace(
            settings, image_window_bytes=1, batch_pixels=4 * context.sizes.image_side**2, num_decoders=8
        )
        groups = LatentGroups(manifest, identity, encoder, options, settings, "benchmark")
        worker = ShardEncoder(inputs.store, store, None, {}, settings, "benchmark", context.device, latents=groups)
        started = time.perf_counter()
        worker.encode(inputs.tars[0], [LATENTS_GROUP], 1)
        seconds = time.perf_counter() - started
        dataset = open_dataset(str(folder), "ledger")
        parts = [part.name for part in dataset.record(LATENTS_GROUP, "00000").parts]
        if number:
            result.check(f"latents in {dtype}: encoded again, the same bytes", parts == first, f"{len(parts)} parts")
            continue
        first = parts
        errors = [
            _error(vae, pixels, row.latents)
            for row, pixels in zip(dataset.latent_rows(), images, strict=True)
            if not row.is_null
        ]
        result.check(f"latents in {dtype}: every image is encoded", len(errors) == len(images), len(errors))
        worst = max(errors, default=float("inf"))
        result.check(f"latents in {dtype}: relative error", worst <= allowed, f"{worst:.2g} of {allowed:g}")
        apart = min(_apart(vae, images[index], images[index + _SHAPES]) for index in range(_SHAPES))
        result.check(
            f"latents in {dtype}: images can be told apart", apart > 2 * allowed, f"{apart:.2g} between images"
        )
    result.note(
        f"- latents in {dtype}: {len(images) / seconds:,.0f} images/s, {context.sizes.image_side} px, from the tar on"
    )


def _images(identity: LatentIdentity, count: int) -> list[np.ndarray]:
    """uint8 [H, W, 3]: as large as the buckets, so that nothing is resized or cropped."""
    buckets = [identity.buckets[index] for index in np.linspace(0, len(identity.buckets) - 1, _SHAPES).astype(int)]
    draw = np.random.default_rng(0)
    found = []
    for index in range(count):
        height, width = buckets[index % _SHAPES]
        blocks = draw.integers(0, 256, (-(-height // 4), -(-width // 4), 3), np.uint8)
        found.append(blocks.repeat(4, 0).repeat(4, 1)[:height, :width])
    return found


def _write_tar(path: Path, images: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, pixels in enumerate(images):
            out = io.BytesIO()
            Image.fromarray(pixels).save(out, "PNG", compress_level=1)
            info = tarfile.TarInfo(f"{number:06d}.png")
            info.size = out.tell()
            tar.addfile(info, io.BytesIO(out.getvalue()))


@torch.inference_mode()
def _exact(vae: AutoencoderKL, pixels: np.ndarray) -> torch.Tensor:
    """float32 [C, h, w]: what diffusers makes of one image."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    values = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(vae.device).float() / 127.5 - 1
    mode = vae.encode(values).latent_dist.mode()[0]
    return (mode - vae.config.shift_factor) * vae.config.scaling_factor


def _error(vae: AutoencoderKL, pixels: np.ndarray, stored: np.ndarray) -> float:
    exact, found = _exact(vae, pixels), torch.from_numpy(stored.astype(np.float32)).to(vae.device)
    return float((found - exact).norm() / exact.norm()) if found.shape == exact.shape else float("inf")


def _apart(vae: AutoencoderKL, pixels: np.ndarray, others: np.ndarray) -> float:
    exact = _exact(vae, pixels)
    return float((_exact(vae, others) - exact).norm() / exact.norm())

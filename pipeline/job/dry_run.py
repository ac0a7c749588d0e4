"""`encode --dry-run`: the plan, for people."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.job.estimate import RowCost, estimate
from pipeline.job.plan import Plan
from pipeline.job.sizes import readable_bytes
from pipeline.layout import assumed_caption_bytes, assumed_tokens
from pipeline.presets import EncodeConfig
from pipeline.sources import Inputs
from schemas.latent_manifest import LATENTS_GROUP
from schemas.manifest import LATENT_MANIFEST_PATH, MANIFEST_PATH
from schemas.planes import STORAGE_DTYPES
from schemas.printable import printable
from schemas.storage import Store

_GFLOP_PER_TOKEN = {"clip_l": 0.173, "clip_g": 1.271, "t5": 9.291}
"""Of the three real encoders."""
_GFLOP_PER_PIXEL = 0.0043
"""Of the encoder of Stable Diffusion 3's autoencoder."""
_H200_TFLOPS = {"bfloat16": 790.0, "float32": 60.0, "float8": 1580.0}
"""Matrix product of an H200: bfloat16 measured, float32 from its data sheet, float8 twice bfloat16."""
_ASSUMED_UTILIZATION = 0.5
_DECODE_SECONDS = 2e-8
"""Of one core for a pixel of a JPEG, resizing included."""
_CAPTION_SHARE = 0.68
"""Of raw, measured."""
_LATENT_CHANNELS, _LATENT_FACTOR = 16, 8
"""Of Stable Diffusion 3's autoencoder."""


def print_plan(config: EncodeConfig, plan: Plan, inputs: Inputs) -> None:
    """Prints what a run of this configuration would do. Reads names, and one tar or some ledger records."""
    for name, text in _lines(config, plan, inputs):
        print(f"{name:<16}{printable(text)}")
    print("\nThe identity of the encoders is not checked by a dry run; the run itself does so before anything else.")


def _lines(config: EncodeConfig, plan: Plan, inputs: Inputs) -> Iterator[tuple[str, str]]:
    dataset = Store(config.output)
    num_bytes = sum(tar.num_bytes for tar in inputs.tars)
    yield "input", f"{config.input}: {plan.num_shards:,} tars, {readable_bytes(num_bytes)}"
    is_there = any(dataset.head(path) is not None for path in (MANIFEST_PATH, LATENT_MANIFEST_PATH))
    exists = "exists, will be added to" if is_there else "will be made"
    yield "output", f"{config.output}: {exists}"
    yield "columns", " ".join(plan.columns)
    yield "done", f"{plan.num_committed:,} of {plan.num_shards * len(plan.columns):,} shards x columns"
    if plan.quarantined:
        yield "quarantined", f"{len(plan.quarantined):,}, left alone; --retry-quarantined tries them again"
    yield "to do", f"{plan.num_todo:,} in {len(plan.todo):,} tars, {readable_bytes(plan.todo_tar_bytes)} to read"
    if plan.todo:
        yield from _estimate_lines(config, plan, inputs, dataset)


def _estimate_lines(config: EncodeConfig, plan: Plan, inputs: Inputs, dataset: Store) -> Iterator[tuple[str, str]]:
    caption = caption_cost(config)
    costs = {group: image_cost(config) if group == LATENTS_GROUP else caption for group in plan.columns}
    found = estimate(plan, inputs, dataset, costs)
    if found.num_captions:
        yield "captions", f"about {found.num_captions:,}"
    if found.num_images:
        yield "images", f"about {found.num_images:,}"
    yield "bytes", f"about {readable_bytes(found.stored_bytes)}"
    yield "time", f"about {_readable_hours(found.worker_hours)} of one worker"
    yield "estimated from", found.basis


def caption_cost(config: EncodeConfig) -> RowCost:
    """Of a caption, with the real encoders."""
    gflop = sum(_GFLOP_PER_TOKEN[name] * tokens for name, tokens in assumed_tokens(config).items())
    dtype = "bfloat16" if config.compute_dtype == "auto" else config.compute_dtype
    return RowCost(assumed_caption_bytes(config) * _CAPTION_SHARE, _seconds(gflop, dtype))


def image_cost(config: EncodeConfig) -> RowCost:
    """Of an image, with Stable Diffusion 3's autoencoder."""
    num_pixels = config.images.resolution**2
    if config.latents == "pixels":
        # As hard to compress as noise, to be on the safe side; decoding is all the work.
        return RowCost(3 * num_pixels, num_pixels * _DECODE_SECONDS)
    num_values = _LATENT_CHANNELS * num_pixels / _LATENT_FACTOR**2
    stored_bytes = num_values * STORAGE_DTYPES[config.vae.storage_dtype].itemsize
    dtype = "bfloat16" if config.vae.compute_dtype == "auto" else config.vae.compute_dtype
    return RowCost(stored_bytes, _seconds(num_pixels * _GFLOP_PER_PIXEL, dtype))


def _seconds(gflop: float, compute_dtype: str) -> float:
    return gflop / (_H200_TFLOPS[compute_dtype] * 1e3 * _ASSUMED_UTILIZATION)


def _readable_hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{hours * 60:.1f} minutes" if hours * 60 >= 1 else f"{hours * 3600:.1f} seconds"

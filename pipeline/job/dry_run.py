"""`encode --dry-run`: the plan, for people."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.job.estimate import estimate
from pipeline.job.plan import Plan
from pipeline.job.sizes import readable_bytes
from pipeline.presets import EncodeConfig
from pipeline.sources import Inputs
from schemas.manifest import MANIFEST_PATH
from schemas.storage import Store

# Widths of the real encoders, for the bytes of a caption when there is no dataset yet to measure.
_REAL_WIDTHS = {"clip_l": (768, 768 + 768), "clip_g": (1280, 1280 + 1280), "t5": (4096, 0)}
_TYPICAL_TOKENS = 40
_DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def print_plan(config: EncodeConfig, plan: Plan, inputs: Inputs) -> None:
    """Prints what a run of this configuration would do. Reads names, and one tar or some ledger records."""
    for name, text in _lines(config, plan, inputs):
        print(f"{name:<16}{text}")
    print("\nThe identity of the encoders is not checked by a dry run; the run itself does so before anything else.")


def _lines(config: EncodeConfig, plan: Plan, inputs: Inputs) -> Iterator[tuple[str, str]]:
    dataset = Store(config.output)
    num_bytes = sum(tar.num_bytes for tar in inputs.tars)
    yield "input", f"{config.input}: {plan.num_shards:,} tars, {readable_bytes(num_bytes)}"
    exists = "exists, will be added to" if dataset.head(MANIFEST_PATH) is not None else "will be made"
    yield "output", f"{config.output}: {exists}"
    yield "columns", " ".join(plan.columns)
    yield "done", f"{plan.num_committed:,} of {plan.num_shards * len(plan.columns):,} shards x columns"
    if plan.quarantined:
        yield "quarantined", f"{len(plan.quarantined):,}, left alone; --retry-quarantined tries them again"
    yield "to do", f"{plan.num_todo:,} in {len(plan.todo):,} tars, {readable_bytes(plan.todo_tar_bytes)} to read"
    if plan.todo:
        yield from _estimate_lines(config, plan, inputs, dataset)


def _estimate_lines(config: EncodeConfig, plan: Plan, inputs: Inputs, dataset: Store) -> Iterator[tuple[str, str]]:
    tokens = {name: getattr(config, name).max_tokens for name in _REAL_WIDTHS}
    if config.padding == "none":
        tokens = {name: min(limit, _TYPICAL_TOKENS) for name, limit in tokens.items()}
    elements = sum(tokens[name] * width + vectors for name, (width, vectors) in _REAL_WIDTHS.items())
    found = estimate(
        plan, inputs, dataset, row_bytes=elements * _DTYPE_BYTES[config.storage_dtype], tokens_per_caption=tokens
    )
    yield "captions", f"about {found.num_captions:,}"
    yield "bytes", f"about {readable_bytes(found.stored_bytes)}"
    yield "time", f"about {_readable_hours(found.worker_hours)} of one worker"
    yield "estimated from", found.basis


def _readable_hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{hours * 60:.1f} minutes" if hours * 60 >= 1 else f"{hours * 3600:.1f} seconds"

"""`encode --dry-run`: the plan, for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

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
    dataset = Store(config.output)
    table = Table("dry run", "", show_header=False, box=None, pad_edge=False)
    table.add_row("input", f"{config.input}: {plan.num_shards} tars, {readable_bytes(sum(t.num_bytes for t in inputs.tars))}")
    exists = "exists, will be added to" if dataset.head(MANIFEST_PATH) is not None else "will be made"
    table.add_row("output", f"{config.output}: {exists}")
    table.add_row("columns", " ".join(plan.columns))
    table.add_row("done", f"{plan.num_committed} of {plan.num_shards * len(plan.columns)} shards x columns")
    table.add_row("quarantined", f"{len(plan.quarantined)} (left alone; --retry-quarantined tries them again)")
    table.add_row("to do", f"{plan.num_todo} in {len(plan.todo)} tars, {readable_bytes(plan.todo_tar_bytes)} to read")
    if plan.todo:
        _add_estimate(table, config, plan, inputs, dataset)
    # Wider than a terminal may be: lines are wrapped by the terminal, not cut by the table.
    Console(soft_wrap=True).print(table)
    print("The identity of the encoders is not checked by a dry run; the run itself does so first.")


def _add_estimate(table: Table, config: EncodeConfig, plan: Plan, inputs: Inputs, dataset: Store) -> None:
    tokens = {name: getattr(config, name).max_tokens for name in _REAL_WIDTHS}
    if config.padding == "none":
        tokens = {name: min(limit, _TYPICAL_TOKENS) for name, limit in tokens.items()}
    elements = sum(tokens[name] * width + vectors for name, (width, vectors) in _REAL_WIDTHS.items())
    found = estimate(
        plan,
        inputs,
        dataset,
        row_bytes=elements * _DTYPE_BYTES[config.storage_dtype],
        real_tokens_per_caption=sum(tokens.values()) / len(tokens),
    )
    table.add_row("captions", f"about {found.num_captions:,}")
    table.add_row("bytes", "unknown" if found.stored_bytes is None else f"about {readable_bytes(found.stored_bytes)}")
    hours = "unknown" if found.worker_hours is None else f"about {found.worker_hours:,.2f} of one worker"
    table.add_row("hours", hours)
    table.add_row("estimated from", found.basis)


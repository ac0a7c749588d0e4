"""The encode engine's figures beside their targets: `benchmarks.encode` within a share of the time."""

from __future__ import annotations

import dataclasses
import json
import os
from argparse import Namespace
from typing import Any

import torch

from benchmarks.encode.__main__ import logging_of_others_off, machine_facts
from benchmarks.encode.figures import figures, rows_table
from benchmarks.encode.run import Wanted
from benchmarks.encode.run import run as run_encode
from benchmarks.encode.sizes import SIZES
from benchmarks.gpu.result import Goal, write_atomically
from benchmarks.gpu.section import Context
from pipeline.process_settings import apply_process_settings

_REPETITIONS = 3
_RESERVE = 0.12
"""Of the section's time, for the comparison of values, which comes last."""


def run(context: Context) -> None:
    """Measures fewer captions and batch sizes than the benchmark by itself, and as many repetitions as fit.

    Leaves encode-SIZE.json behind, as the benchmark's `--output` writes it.
    """
    load = os.getloadavg()[0]
    apply_process_settings(context.cores)
    logging_of_others_off()
    size = SIZES[context.sizes.real]
    if not context.is_tiny:
        size = dataclasses.replace(
            size,
            num_captions=6144,
            num_peer_captions=1536,
            num_worker_tars=4,
            peer_batches=(64, 128, 256, 512),
            budgets=(16_384, 32_768),
            product_seconds=0.5,
            num_checked=32,
        )
    wanted = Wanted(
        size=context.sizes.real,
        device=torch.device(context.device),
        dtypes=("bfloat16",),
        repetitions=1 if context.is_tiny else _REPETITIONS,
        whole_job=False,
        cores=context.cores,
        folder=context.folder,
        seconds=context.budget.left * (1 - _RESERVE),
    )

    def update(facts: dict[str, Any]) -> None:
        _record(context, facts)

    facts = run_encode(wanted, size, update)
    _record(context, facts)
    options = Namespace(size=wanted.size, cores=context.cores, repetitions=len(facts["rows"][0]["repetitions"]))
    whole = machine_facts(options, wanted.device, load) | facts
    write_atomically(context.output / f"encode-{wanted.size}.json", json.dumps(whole, indent=2) + "\n")
    measured = {(row["engine"], row["captions"], row["t5_tokens"]) for row in facts["rows"]}
    needed = {("compact", "short", 256), ("sd3", "short", 77), ("diffusers", "short", 77)}
    context.result.check("the engine and diffusers were measured", needed <= measured, f"{len(measured)} rows")
    # diffusers' values are compared within: another error than rounding raises.
    error = facts["difference_from_diffusers"]["bfloat16"]
    context.result.check("stored values are diffusers'", error < 0.05, f"relative error {error:.2g}")


def _record(context: Context, facts: dict[str, Any]) -> None:
    result, facts = context.result, {"device": context.device, **facts}
    result.facts = facts
    result.goals = [Goal(one.name, one.value, one.text, one.goal, one.at_most) for one in figures(facts)]
    result.lines = rows_table(facts)
    result.save()

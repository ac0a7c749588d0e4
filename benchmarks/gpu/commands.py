"""Sections that are commands of other benchmarks, each with the results that it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from benchmarks import write_path as write_path_benchmark
from benchmarks.gpu.result import Goal
from benchmarks.gpu.section import Context

_SHARE_ALLOWED = 0.85
_GPU_RATE = 950.0
"""`sd3` captions a second of an H200 that does nothing but products."""
_SOURCES = {"stored": "stored conditioning", "encoders": "encoders in the step"}


def training_step(context: Context) -> None:
    """A training step with stored conditioning, and beside it one with the text encoders in it if time is left."""
    result, sizes = context.result, context.sizes
    rows: dict[str, dict[str, Any]] = {}
    lines = ["| conditioning | ms a step | samples/s | GB | waiting | of a product |", "|---|---|---|---|---|---|"]
    for source, name in _SOURCES.items():
        left = context.budget.left
        if rows and left < context.budget.seconds - left:
            result.note(f"No time for {name}: {left:.0f} s are left.")
            break
        output = context.folder / f"{source}.json"
        command = [
            "benchmarks.training_step",
            "--size",
            sizes.training,
            "--sources",
            source,
            "--device",
            context.device,
        ]
        command += ["--batch-size", str(sizes.batch_size), "--steps", str(sizes.steps)]
        command += ["--samples", str(8 * sizes.batch_size), "--data", str(context.folder), "--output", str(output)]
        command += ["--no-compile"] if context.is_tiny else ["--resolutions", "256"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(context.cores)}
        subprocess.run([sys.executable, "-m", *command], env=environment, check=True)
        row = json.loads(output.read_text())["rows"][0]
        rows[source] = row
        lines.append(
            f"| {name} | {1e3 * row['seconds_per_step']:,.0f} | {row['samples_per_second']:,.1f} | "
            f"{row['memory_bytes'] / 1e9:.1f} | {row['waiting_share']:.2%} | {row['utilisation']:.2f} |"
        )
        result.facts["rows"], result.lines = list(rows.values()), lines
        if source == "stored":
            share = row["waiting_share"]
            result.goals.append(Goal("training step, waiting for data", share, f"{share:.2%}", 0.01, at_most=True))
        else:
            ratio = row["seconds_per_step"] / rows["stored"]["seconds_per_step"]
            result.goals.append(Goal("training step, encoders in it over stored conditioning", ratio, f"{ratio:.2f} ×"))
        result.save()
    result.check("training steps were measured", "stored" in rows, ", ".join(rows))


def write_path(context: Context) -> None:
    """All that follows the encoders, on two cores and on all: a GPU makes some 950 `sd3` captions a second."""
    result, output = context.result, context.output / "write-path-figures.json"
    config = write_path_benchmark.Config(
        presets=("sd3",),
        captions=64 if context.is_tiny else 1024,
        cores=tuple(sorted({min(2, context.cores), context.cores})),
        repetitions=1 if context.is_tiny else 3,
        folder=context.folder,
        output=output,
    )
    write_path_benchmark.main(config)
    result.facts = json.loads(output.read_text())
    output.unlink()
    rows = result.facts["presets"]["sd3"]["rows"]
    for row, target in zip(rows, (_SHARE_ALLOWED, None), strict=False):
        share, cores = row["share_of_allowed"], row["cores"]
        name = f"write path on {cores} cores, over what its bare parts allow"
        result.goals.append(Goal(name, share, f"{share:.2f}", target))
    rate = rows[-1]["captions_per_second"]
    name = f"write path on {rows[-1]['cores']} cores, `sd3` captions/s"
    result.goals.append(Goal(name, rate, f"{rate:,.0f}", _GPU_RATE))
    result.note(write_path_benchmark.table(result.facts))
    result.check("the write path was measured", rate > 0, f"{rate:,.0f} captions/s")

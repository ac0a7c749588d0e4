"""What 1,000 to 100,000 shards cost the driver and the trainer: `python -m benchmarks.scale --output FILE.json`.

Records are real, parts and tars are not there: planning, resuming, finalizing and opening a stream never read them.
Each figure is of a process of its own, on files of the local disk, the median of some repetitions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.scale.datasets import encode_one, link_half, make_inputs, make_ledger
from pipeline.provenance import library_versions

_ROOT = Path(__file__).parents[2]


def main() -> None:
    """Measures and prints; exit status 0 even where a goal is missed: docs/reliability/scale.md says which are."""
    options = _options()
    options.data.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}",
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version(), **library_versions()},
        "repetitions": options.repetitions,
        "rows": [],
    }
    with tempfile.TemporaryDirectory(dir=options.data, prefix="scale-") as folder:
        one = encode_one(Path(folder))
        for count in options.shards:
            row = measured(one, Path(folder) / str(count), count, options.repetitions)
            print(json.dumps(row), flush=True)
            facts["rows"].append(row)
            shutil.rmtree(Path(folder) / str(count))
    print(table(facts["rows"]))
    if options.output is not None:
        options.output.write_text(json.dumps(facts, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="in the ledger")
    parser.add_argument("--repetitions", type=int, default=3, help="of all but the loop and the whole command")
    parser.add_argument("--data", type=Path, default=_ROOT / "benchmarks" / ".data", help="folder for temporary files")
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    return parser.parse_args()


def measured(one: Path, folder: Path, count: int, repetitions: int) -> dict[str, Any]:
    """All figures of a dataset of `count` shards, in `folder`, which is made."""
    folder.mkdir()
    inputs, whole, half = folder / "tars", folder / "whole", folder / "half"
    make_inputs(inputs, count)
    make_ledger(one, whole, count)
    link_half(whole, half, count)
    row: dict[str, Any] = {"shards": count}
    row["plan, nothing done"] = _median(repetitions, "plan", inputs, folder / "nothing")
    row["plan, half done"] = _median(repetitions, "plan", inputs, half)
    row["plan, all done"] = _median(repetitions, "plan", inputs, whole)
    row["finalize"] = _median(repetitions, "index", whole)
    row["trainer opens the index"] = _median(repetitions, "open", whole)
    row["whole command, all done"] = _command(inputs, whole)
    row["loop alone, 64 workers"] = _median(repetitions, "driver", count)
    row["loop, 2 Ray workers, commits"] = _task("loop", one, folder / "by-loop", count)
    row["these commits without the loop"] = _task("commits", one, folder / "by-hand", count)
    return row


def _median(repetitions: int, name: str, *arguments: object) -> dict[str, Any]:
    runs = [_task(name, *arguments) for _ in range(repetitions)]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def _task(name: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale.tasks", name, *map(str, arguments)]
    done = subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {key: round(value, 3) for key, value in found.items()}


def _command(inputs: Path, dataset: Path) -> dict[str, Any]:
    """`pipeline encode` on a dataset that has all: plan, lease, index, accounts; imports and encoders included."""
    command = [sys.executable, "-m", "pipeline", "encode", "demo", "--input", str(inputs), "--output", str(dataset)]
    started = time.perf_counter()
    child = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0 or "Nothing to encode" not in output:
        raise RuntimeError(output)
    return {"seconds": round(time.perf_counter() - started, 3), "peak_mb": round(usage.ru_maxrss * 1024 / 1e6, 1)}


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as Markdown, a column for each number of shards."""
    lines = [
        "| | " + " | ".join(f"{row['shards']:,} shards" for row in rows) + " |",
        "|---|" + "---|" * len(rows),
    ]
    for name in [key for key in rows[0] if isinstance(rows[0][key], dict)]:
        lines.append(f"| {name} | " + " | ".join(_cell(row[name]) for row in rows) + " |")
    return "\n".join(lines)


def _cell(figures: dict[str, Any]) -> str:
    parts = [
        f"{figures['ms_per_shard']:.2f} ms a shard" if "ms_per_shard" in figures else f"{figures['seconds']:.2f} s"
    ]
    if "peak_mb" in figures:
        parts.append(f"{figures['peak_mb']:,.0f} MB")
    return ", ".join(parts)


if __name__ == "__main__":
    main()

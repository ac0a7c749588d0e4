"""A training step with stored conditioning beside the same step with the three text encoders in it.

    python -m benchmarks.training_step --size small                    on a CPU, in minutes
    python -m benchmarks.training_step --size full --data /fast/disk   on a GPU: docs/gpu-runs.md

Both sides run `trainer`'s own loop (AdamW, EMA, clipping) on the same MMDiT, each in a process of its own. The encoders
have random weights, made on the device: nothing is downloaded. Their side has token ids and latents lying ready, so
neither tokenizing nor reading is counted; the stored side reads, decodes and uploads all it trains on. Measured are
step time, peak memory, the share of the step spent waiting for data, and model FLOP/s as a share of a matrix product
of the same process.

Needs none of ray, open_clip and tyro; transformers for the encoders' side only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.training_step_data import write_dataset
from benchmarks.training_step_run import Measurement, run
from benchmarks.training_step_sizes import SIZES

_ROOT = Path(__file__).parents[1]
_SOURCES = {"stored": "stored conditioning", "encoders": "encoders in the step"}
_PACKAGES = ("torch", "transformers", "diffusers", "pyarrow", "numpy")


def main() -> None:
    options = _options()
    if options.one is not None:
        print(json.dumps(run(Measurement(**json.loads(options.one)))), flush=True)
        return
    size = SIZES[options.size]
    rows = []
    for resolution in options.resolutions or size.resolutions:
        data = options.data / f"training-{options.size}-{resolution}-{options.samples}"
        if not (data / "index.arrow").exists():
            print(f"writing {options.samples} samples to {data}", flush=True)
            write_dataset(data, size, resolution, options.samples)
        for _ in range(options.repetitions):
            for source in options.sources:
                rows.append(_measure(options, source, resolution, data))
                print(_line(rows[-1]), flush=True)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(_facts(options, rows), indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--sources", choices=sorted(_SOURCES), nargs="+", default=["stored", "encoders"])
    parser.add_argument("--resolutions", type=int, nargs="+", help="of the pictures, px (default: of the size)")
    parser.add_argument("--batch-size", type=int, help="samples of a step (default: of the size)")
    parser.add_argument("--steps", type=int, default=20, help="measured, after as many that are not")
    parser.add_argument("--repetitions", type=int, default=1, help="of everything, alternating")
    parser.add_argument("--samples", type=int, default=512, help="of the dataset; 0.7 MB each at full size")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="the blocks (default: of the size)")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--data", type=Path, default=_ROOT / "benchmarks" / ".data", help="folder for the dataset")
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(options: argparse.Namespace, source: Any, resolution: int, data: Path) -> dict[str, Any]:
    size = SIZES[options.size]
    wanted = Measurement(
        source=source,
        size=options.size,
        resolution=resolution,
        batch_size=options.batch_size or size.batch_size,
        steps=options.steps,
        checkpointing=options.activation_checkpointing,
        compile=size.compile if options.compile is None else options.compile,
        device=options.device,
        data=str(data),
    )
    command = [sys.executable, "-m", "benchmarks.training_step", "--one", json.dumps(asdict(wanted))]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
    settings = {name: value for name, value in asdict(wanted).items() if name != "data"}
    return {**settings, **json.loads(done.stdout.splitlines()[-1])}


def _line(row: dict[str, Any]) -> str:
    return " | ".join(
        [
            f"{_SOURCES[row['source']]:<20} {row['resolution']} px, batch {row['batch_size']}",
            f"{1e3 * row['seconds_per_step']:,.0f} ms a step",
            f"{row['samples_per_second']:,.1f} samples/s",
            f"{row['memory_bytes'] / 1e9:.1f} GB",
            f"waiting {row['waiting_share']:.2%}",
            f"{row['model_flops_per_second'] / 1e12:,.3g} TFLOP/s, {row['utilisation']:.1%} of a product",
        ]
    )


def _facts(options: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {rows[0]['device']}",
        "load_average": os.getloadavg()[0],
        "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "size": options.size,
        "rows": rows,
    }


if __name__ == "__main__":
    main()

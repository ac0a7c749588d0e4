"""Our encode engine beside diffusers', Ray Data's and the bare matrix product, in one run on the same weights.

    python -m benchmarks.encode --size small --output benchmarks/results/encode-small-cpu.json      two cores, minutes
    python -m benchmarks.encode --size full --output benchmarks/results/encode-full-h200.json       docs/gpu-runs.md
    python -m benchmarks.encode --report                                 docs/benchmarks-encode.md, from all results

The models have random weights; nothing is downloaded. docs/benchmarks-encode.md says how to read the figures. Needs
neither ray nor tyro but for `--whole-job`, which compares whole jobs and is left out on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.encode.report import RESULTS, write_report
from benchmarks.encode.run import Wanted, run
from benchmarks.encode.sizes import SIZES
from pipeline.process_settings import apply_process_settings
from pipeline.provenance import library_versions

_ROOT = Path(__file__).parents[2]


def main() -> None:
    options = _options()
    if options.report:
        write_report(_ROOT)
        return
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    on_cpu = device.type == "cpu"
    apply_process_settings(options.cores)
    logging_of_others_off()
    options.data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.data, prefix="encode-") as folder:
        wanted = Wanted(
            size=options.size,
            device=device,
            dtypes=tuple(options.dtypes or (["float32", "bfloat16"] if on_cpu else ["bfloat16"])),
            repetitions=options.repetitions,
            whole_job=on_cpu if options.whole_job is None else options.whole_job,
            cores=options.cores,
            folder=Path(folder),
        )
        load = os.getloadavg()[0]
        facts = machine_facts(options, device, load) | run(wanted)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(facts, indent=2) + "\n")


def logging_of_others_off() -> None:
    """diffusers warns of every caption that is cut, with its text."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU if there is one)")
    parser.add_argument("--dtypes", choices=["float32", "bfloat16"], nargs="+", help="the fastest last")
    parser.add_argument("--repetitions", type=int, default=3, help="of every measurement; the median counts")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="threads (default: all cores)")
    parser.add_argument("--whole-job", action=argparse.BooleanOptionalAction, help="default: on a CPU")
    parser.add_argument("--data", type=Path, default=_ROOT / "benchmarks" / ".data", help="folder for temporary files")
    parser.add_argument("--output", type=Path, help=f"where to write the figures as JSON, such as {RESULTS}/...json")
    parser.add_argument("--report", action="store_true", help="write the page and the README's table, measure nothing")
    return parser.parse_args()


def machine_facts(options: argparse.Namespace, device: torch.device, load: float) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "size": options.size,
        "device": device.type,
        "machine": f"{name}, {options.cores} of {os.cpu_count()} cores, {platform.machine()}",
        "load_average": round(load, 2),
        "versions": library_versions(),
        "repetitions": options.repetitions,
    }


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "CPU"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")


if __name__ == "__main__":
    main()

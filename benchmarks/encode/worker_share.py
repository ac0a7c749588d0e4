"""How much of its engine's speed a whole worker has, at the real size, in less memory than the whole benchmark takes.

    python -m benchmarks.encode.worker_share --output benchmarks/results/worker-share-full-cpu.json

One copy of the weights (11 GB in bfloat16, random), `compact`, short captions: the engine alone, then the worker from
tars to committed shards on the same captions, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.encode.__main__ import machine_facts
from benchmarks.encode.captions import captions_of
from benchmarks.encode.models import OurEncoders, caption_tokenizer, random_models
from benchmarks.encode.ours import OurEngine
from benchmarks.encode.sizes import SIZES, T5_TOKENS
from benchmarks.encode.worker import WholeWorker
from pipeline.engine_settings import CPU_SETTINGS, GPU_SETTINGS
from pipeline.process_settings import apply_process_settings


def main() -> None:
    options = _options()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    load = os.getloadavg()[0]
    apply_process_settings(options.cores)
    size = SIZES[options.size]
    settings = GPU_SETTINGS if device.type == "cuda" else CPU_SETTINGS
    encoders = OurEncoders(random_models(size, device, torch.bfloat16), take_over=True).encoders("none", T5_TOKENS)
    captions = captions_of("short", options.captions, caption_tokenizer("t5", T5_TOKENS))
    engine = OurEngine("compact", "short", captions, encoders, settings, options.budgets)
    print(f"tokens a batch: {engine.tried}", flush=True)
    with tempfile.TemporaryDirectory(prefix="worker-share-") as folder:
        worker = WholeWorker(captions, options.tars, encoders, settings, engine, Path(folder))
        for _ in range(options.repetitions):
            engine.measure()
            worker.measure()
            print(f"engine {engine.row.rates[-1]:.2f}, whole worker {worker.rates[-1]:.2f} captions/s", flush=True)
    facts: dict[str, Any] = machine_facts(options, device, load) | {
        "captions_of_a_tar": len(captions),
        "tars": options.tars,
        "engine_captions_per_second": [round(rate, 3) for rate in engine.row.rates],
        "worker": worker.facts(),
    }
    print(f"whole worker over engine alone: {facts['worker']['share_of_engine']}")
    if options.output is not None:
        options.output.write_text(json.dumps(facts, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="full")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU if there is one)")
    parser.add_argument("--captions", type=int, default=96, help="of a tar")
    parser.add_argument("--tars", type=int, default=6, help="more make the start and the end of the job count less")
    parser.add_argument(
        "--budgets", type=int, nargs="*", default=[], help="tokens of a batch to try besides the engine's"
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()

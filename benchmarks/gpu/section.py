"""One section in a process of its own: `python -m benchmarks.gpu.section MODULE:FUNCTION --name NAME --output DIR`.

The process leaves the section's document behind, also when it fails. Shortly before its time is over, it prints where
each of its threads is.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.result import ERROR, FAILED, PASSED, Result
from benchmarks.time_budget import TimeBudget


@dataclass(frozen=True)
class Sizes:
    """How much each section does.

    Attributes:
        narrow: Encoders of the first comparison of values, in `benchmarks.encode.sizes`.
        real: Encoders of everything else.
        training: Size of `benchmarks.training_step`.
        num_captions: Encoded to compare values; in the first comparison, and at the real widths.
        num_checked: Of them, compared with the reference.
        repetitions: Of encoding the same, which must give the same bytes.
        image_side: Pixels, of the autoencoder's images.
        num_images: Of them.
        steps: Training steps that are measured.
        batch_size: Of a training step.
    """

    narrow: str
    real: str
    training: str
    num_captions: tuple[int, int]
    num_checked: int
    repetitions: int
    image_side: int
    num_images: int
    steps: int
    batch_size: int


SIZES = {
    "full": Sizes("small", "full", "full", (256, 1536), 40, 3, 256, 96, 10, 64),
    # Only to see that all of it runs, on a CPU.
    "tiny": Sizes("tiny", "tiny", "tiny", (48, 32), 12, 2, 32, 10, 2, 4),
}


@dataclass(frozen=True)
class Context:
    """What a section is given.

    Attributes:
        sizes: How much to do.
        device: "cuda" or "cpu".
        cores: Threads of this process.
        budget: Its time. What is optional is left out when little is left.
        folder: For temporary files.
        output: For files that are kept beside the document.
        result: Where it records what it finds.
        is_tiny: Whether figures mean nothing.
    """

    sizes: Sizes
    device: str
    cores: int
    budget: TimeBudget
    folder: Path
    output: Path
    result: Result
    is_tiny: bool


def main() -> None:
    options = _options()
    result = Result(options.name, options.output / f"{options.name}.json", limit_seconds=options.seconds)
    faulthandler.dump_traceback_later(max(0.1, options.seconds - 1))
    context = Context(
        SIZES[options.size],
        options.device,
        options.cores,
        TimeBudget(options.seconds),
        options.data,
        options.output,
        result,
        options.size == "tiny",
    )
    sys.exit(run(options.target, context))


def run(target: str, context: Context) -> int:
    """Runs a section; 0 if every check held.

    Args:
        target: Its function, as "module:function".
        context: For it; the result's status is set.
    """
    result = context.result
    result.save()
    try:
        module, _, name = target.partition(":")
        section: Callable[[Context], None] = getattr(importlib.import_module(module), name)
        section(context)
        result.status = PASSED if result.held else FAILED
    except Exception:  # whatever it is, the next section is to run
        result.status, result.error = ERROR, traceback.format_exc()
        traceback.print_exc()
    result.seconds = round(context.budget.seconds - context.budget.left, 1)
    result.save()
    return 0 if result.status == PASSED else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="module:function")
    parser.add_argument("--name", required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of the document")
    parser.add_argument("--size", choices=sorted(SIZES), default="full")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--data", type=Path, required=True, help="folder for temporary files")
    return parser.parse_args()


if __name__ == "__main__":
    # The section's modules import this one by its name; as "__main__" its classes would exist twice.
    from benchmarks.gpu.section import main as run_main

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    run_main()

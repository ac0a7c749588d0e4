"""Cost of a busy neighbour: encoding and training, alone and beside processes that take a core each.

    python -m benchmarks.busy_neighbour --output benchmarks/results/busy-neighbour.json

Each setting of torch's threads runs the same work in a process of its own: the encode engine with the demo's encoders
and captions, and the trainer's loop with the demo's model. The processes stay up and take turns, so that all of them
see the same machine; neighbours start and end between the turns. It needs a machine that is otherwise quiet.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_BUSY = "while True: pass"
_OWN = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT")

SETTINGS: dict[str, dict[str, str]] = {
    "project": {},
    # The default of GNU's OpenMP runtime, which torch brings.
    "spinning": {"GOMP_SPINCOUNT": "300000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""Environment variables, beside those that `pipeline` and `trainer` set themselves."""

Work = Callable[[float], float]
"""Works for at least so many seconds; gives captions or samples per second."""


@contextlib.contextmanager
def encoding(_: Path) -> Iterator[Work]:
    """Windows of 64 captions through the encode engine."""
    from benchmarks.encode.ours import windows_of
    from pipeline.demo_data import COLORS, PLACES, SHAPES, SIZES, Scene
    from pipeline.encoders import load_encoder
    from pipeline.engine import EncodeEngine
    from pipeline.engine_settings import CPU_SETTINGS
    from pipeline.presets import PRESETS
    from pipeline.repeated_captions import RepeatedCaptions
    from schemas.identity import ENCODER_NAMES

    demo, chance = PRESETS["demo"][1], random.Random(0)
    encoders = {
        name: load_encoder(
            name,
            getattr(demo, name),
            padding="max_length",
            compute_dtype="float32",
            storage_dtype="bfloat16",
            device="cpu",
        )
        for name in ENCODER_NAMES
    }
    scenes = [
        Scene(size, color, shape, place, ground)
        for size in SIZES
        for color in COLORS
        for shape in SHAPES
        for place in PLACES
        for ground in COLORS
    ]
    captions = [scene.caption("a {what} {where} on a {ground} background") for scene in chance.sample(scenes, 512)]
    groups = [captions[start : start + 64] for start in range(0, len(captions), 64)]
    windows = [window for group in groups for window in windows_of(group, encoders, CPU_SETTINGS)]
    engine = EncodeEngine(encoders)

    def work(seconds: float) -> float:
        began, number = time.perf_counter(), 0
        while (taken := time.perf_counter() - began) < seconds:
            for _ in engine.encode(windows[number % 8 : number % 8 + 1], RepeatedCaptions((), 0)):
                number += 1
        return 64 * number / taken

    yield work


@contextlib.contextmanager
def training(data: Path) -> Iterator[Work]:
    """Steps of the trainer's loop on a dataset of random values, read and decoded as always."""
    import torch

    from benchmarks.training_step_run import NoSaver, placeholder
    from benchmarks.training_step_sizes import SIZES, caption_identity, latent_identity
    from schemas.dataset import open_dataset
    from trainer.conditioning import ConditioningConfig, context_layout
    from trainer.distributed import connected
    from trainer.ema import Ema
    from trainer.loop import Loop, LoopConfig
    from trainer.model import build_model, transformer_config
    from trainer.optimizer import build_optimizer
    from trainer.presets import PRESETS
    from trainer.state import TrainState
    from trainer.step import StepConfig, TrainStep
    from trainer.stopping import StopRequest
    from trainer.stream.loader import StreamLoader

    demo, layout = PRESETS["demo"][1], context_layout(caption_identity(SIZES["small"]))
    with connected("cpu", 600.0) as distributed:
        loader = StreamLoader(
            [open_dataset(str(data))],
            replace(demo.stream, holdout_rows=0),
            ConditioningConfig(),
            seed=0,
            batch_size=demo.batch_size,
            device=distributed.device,
            dtype=torch.float32,
        )
        model = build_model(
            transformer_config(demo.model, layout, latent_identity(_RESOLUTION)), seed=0, device=distributed.device
        )
        state = TrainState(model, build_optimizer(model, demo.optimizer), Ema(model, demo.ema.decay), loader)
        # One iterator for all turns: each would otherwise wait for the stream to begin anew.
        stream = _Running(loader, iter(loader))
        never = 10**9
        told = StepConfig(demo.flow, 1.0, demo.optimizer, never, 0)
        step = TrainStep(state, told, distributed, placeholder(_RESOLUTION, layout, torch.float32, distributed.device))

        def work(seconds: float) -> float:
            before, began = state.step, time.perf_counter()
            limit = LoopConfig(never, 1, never, never, max_seconds=state.seconds + seconds)
            Loop(limit, state, stream, step, distributed, saver=NoSaver(), reporter=None).run(StopRequest())
            return demo.batch_size * (state.step - before) / (time.perf_counter() - began)

        try:
            yield work
        finally:
            loader.close()


@dataclass(frozen=True)
class _Running:
    """A stream that goes on where it was."""

    loader: Any
    iterator: Iterator[Any]

    def __iter__(self) -> Iterator[Any]:
        return self.iterator

    @property
    def waiting_seconds(self) -> float:
        return float(self.loader.waiting_seconds)


_RESOLUTION = 256
WORKS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Work]]] = {"encode": encoding, "train": training}


@dataclass
class Row:
    """One way of setting the threads, at one kind of work.

    Attributes:
        work: Name in `WORKS`.
        setting: Name in `SETTINGS`.
        rates: Captions or samples per second, by number of neighbours, one a repetition.
    """

    work: str
    setting: str
    rates: dict[int, list[float]] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """As JSON; `slowdown` is the rate alone over that beside neighbours, medians."""
        medians = {neighbours: statistics.median(rates) for neighbours, rates in self.rates.items()}
        slowdown = {neighbours: medians[0] / median for neighbours, median in medians.items() if neighbours}
        return {
            "work": self.work,
            "setting": self.setting,
            "rates": self.rates,
            "median": medians,
            "slowdown": slowdown,
        }


def main() -> None:
    options = _options()
    if options.child is not None:
        _serve(options.child, options.data)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "dataset"
        if "train" in options.works:
            # In a process of its own: this one must not have loaded torch.
            _run_child(["--child", "write", "--data", str(data)])
        rows = [row for work in options.works for row in _measure(work, data, options)]
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "load_average_before": options.load,
        "versions": {name: version(name) for name in ("torch", "diffusers")} | {"python": platform.python_version()},
        "seconds": options.seconds,
        "rows": [row.facts() for row in rows],
    }
    for row in facts["rows"]:
        slower = ", ".join(f"beside {count}: {slowdown:.2f} x slower" for count, slowdown in row["slowdown"].items())
        print(f"{row['work']:<7}{row['setting']:<11}{row['median'][0]:8.1f} a second alone | {slower}")
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(facts, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", choices=sorted(WORKS), nargs="+", default=sorted(WORKS))
    parser.add_argument("--settings", choices=list(SETTINGS), nargs="+", default=list(SETTINGS))
    parser.add_argument("--neighbours", type=int, nargs="+", default=[1], help="busy processes, besides none")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    parser.add_argument("--child", choices=[*sorted(WORKS), "write"], help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.load = os.getloadavg()[0]
    return options


def _measure(work: str, data: Path, options: argparse.Namespace) -> list[Row]:
    rows = [Row(work, setting) for setting in options.settings]
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(_child(work, data, SETTINGS[row.setting])) for row in rows]
        for ask in children:
            ask(options.seconds)  # a first turn, which is not counted
        for _ in range(options.repetitions):
            for neighbours in (0, *options.neighbours):
                with _busy(neighbours):
                    for row, ask in zip(rows, children, strict=True):
                        row.rates.setdefault(neighbours, []).append(ask(options.seconds))
    return rows


@contextlib.contextmanager
def _child(work: str, data: Path, variables: dict[str, str]) -> Iterator[Work]:
    command = [sys.executable, "-m", "benchmarks.busy_neighbour", "--child", work, "--data", str(data)]
    environment = {name: value for name, value in os.environ.items() if name not in _OWN} | variables
    with subprocess.Popen(
        command, cwd=_ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        questions, answers = process.stdin, process.stdout
        assert questions is not None
        assert answers is not None

        def ask(seconds: float) -> float:
            print(seconds, file=questions, flush=True)
            return float(answers.readline())

        try:
            yield ask
        finally:
            questions.close()


def _run_child(arguments: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "benchmarks.busy_neighbour", *arguments], cwd=_ROOT, check=True)


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _serve(work: str, data: Path) -> None:
    """Works for as many seconds as each line of the input says, and answers each with a rate."""
    if work == "write":
        from benchmarks.training_step_data import write_dataset
        from benchmarks.training_step_sizes import SIZES

        write_dataset(data, SIZES["small"], _RESOLUTION, 256)
        return
    # Before anything that imports torch: the packages set what its OpenMP runtime reads when it is loaded.
    assert "torch" not in sys.modules, "torch was imported first: every setting would be the runtime's default"
    importlib.import_module({"encode": "pipeline", "train": "trainer"}[work])
    with WORKS[work](data) as run:
        for line in sys.stdin:
            print(run(float(line)), flush=True)


if __name__ == "__main__":
    main()

"""A small model trained on batches of memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.trainer.memory_stream import MODEL, MemoryStream, placeholder
from trainer.distributed import Distributed
from trainer.ema import Ema
from trainer.flow import FlowConfig
from trainer.loop import Loop, LoopConfig
from trainer.model import build_model
from trainer.optimizer import OptimizerConfig, build_optimizer
from trainer.parallelize import ParallelConfig, parallelize
from trainer.state import TrainState
from trainer.step import StepConfig, TrainStep

OPTIMIZER = OptimizerConfig(learning_rate=0.01, warmup_steps=2)
SIX_STEPS = LoopConfig(num_steps=6, accumulation=1, log_every=1, checkpoint_every=4)
GLOBAL_BATCH = 8


@dataclass
class Recorded:
    """Takes what a loop tells."""

    figures: dict[int, dict[str, float]] = field(default_factory=dict)
    saved: list[tuple[int, int]] = field(default_factory=list)
    waits: int = 0

    def training(self, step: int, values: Mapping[str, float]) -> None:
        self.figures[step] = dict(values)

    def save(self, state: TrainState, step: int) -> None:
        self.saved.append((step, state.stream.state_dict()["position"]))

    def wait(self) -> None:
        self.waits += 1

    @property
    def losses(self) -> list[float]:
        return [figures["loss"] for figures in self.figures.values()]


def make_state(stream: MemoryStream, distributed: Distributed, *, seed: int = 1) -> TrainState:
    """An untrained state."""
    model = build_model(MODEL, seed=seed)
    parallelize(model, ParallelConfig(dtype="float32"), distributed.mesh)
    return TrainState(model, build_optimizer(model, OPTIMIZER), Ema(model, 0.9), stream)


def make_loop(
    distributed: Distributed,
    state: TrainState,
    recorded: Recorded,
    *,
    config: LoopConfig = SIX_STEPS,
    optimizer: OptimizerConfig = OPTIMIZER,
    **options: Any,
) -> Loop:
    """A loop that tells `recorded` everything."""
    assert isinstance(state.stream, MemoryStream)
    told = StepConfig(FlowConfig(), 1.0, optimizer, config.num_steps, 3, config.max_seconds)
    step = TrainStep(state, told, distributed, placeholder())
    return Loop(config, state, state.stream, step, distributed, saver=recorded, reporter=recorded, **options)

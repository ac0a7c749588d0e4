"""The loop and its steps, on batches of memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from tests.trainer.memory_stream import MODEL, MemoryStream, is_valid, placeholder
from trainer.distributed import Distributed, connected
from trainer.ema import Ema
from trainer.flow import FlowConfig, draw
from trainer.loop import Due, Loop, LoopConfig
from trainer.meter import DivergedError
from trainer.model import build_model
from trainer.optimizer import OptimizerConfig, build_optimizer
from trainer.state import TrainState
from trainer.step import StepConfig, TrainStep
from trainer.stopping import StopRequest
from trainer.stream.batch import Batch

OPTIMIZER = OptimizerConfig(learning_rate=0.01, warmup_steps=2)
SIX_STEPS = LoopConfig(num_steps=6, accumulation=1, log_every=1, checkpoint_every=4)


@pytest.fixture
def alone() -> Iterator[Distributed]:
    with connected("cpu", 60.0) as distributed:
        yield distributed


@dataclass
class Recorded:
    """Takes what a loop tells, and says when to stop."""

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


def _state(stream: MemoryStream, *, seed: int = 1) -> TrainState:
    model = build_model(MODEL, seed=seed)
    return TrainState(model, build_optimizer(model, OPTIMIZER), Ema(model, 0.9), stream)


def _loop(
    distributed: Distributed,
    state: TrainState,
    recorded: Recorded,
    *,
    optimizer: OptimizerConfig = OPTIMIZER,
    config: LoopConfig = SIX_STEPS,
    **options: Any,
) -> Loop:
    assert isinstance(state.stream, MemoryStream)
    step = StepConfig(FlowConfig(), 1.0, optimizer, num_steps=config.num_steps, seed=3)
    train = TrainStep(state, step, distributed, placeholder())
    return Loop(config, state, state.stream, train, distributed, saver=recorded, reporter=recorded, **options)


def test_trains_saves_and_reports(alone: Distributed) -> None:
    recorded, seen, evaluated = Recorded(), [], []
    state = _state(MemoryStream(8))

    def note(step: int, batches: list[Batch]) -> None:
        seen.append((step, batches[0].position))

    due = [Due(4, lambda: evaluated.append(state.step))]
    assert _loop(alone, state, recorded, due=due, on_batches=note).run(StopRequest())
    assert state.step == 6
    assert recorded.saved == [(4, 32), (6, 48)]
    assert recorded.waits == 1
    assert evaluated == [4, 6]
    assert seen == [(step, 8 * (step - 1)) for step in range(1, 7)]
    assert list(recorded.figures) == [1, 2, 3, 4, 5, 6]
    assert recorded.figures[1]["learning_rate"] == pytest.approx(0.005)
    assert 0 <= recorded.figures[2]["waiting_share"] <= 1


def test_loss_falls(alone: Distributed) -> None:
    recorded = Recorded()
    config = LoopConfig(num_steps=60, accumulation=1, log_every=10, checkpoint_every=60)
    _loop(alone, _state(_Repeating(4)), recorded, config=config).run(StopRequest())
    assert recorded.losses[-1] < 0.8 * recorded.losses[0]


class _Repeating(MemoryStream):
    """The same few samples over and over."""

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield next(iter(MemoryStream(self.batch_size)))


@pytest.mark.parametrize("num_sizes", [1, 2])
def test_accumulation_changes_nothing_but_rounding(alone: Distributed, num_sizes: int) -> None:
    whole, parts = Recorded(), Recorded()
    config = LoopConfig(num_steps=5, accumulation=1, log_every=1, checkpoint_every=9)
    one = _state(MemoryStream(12, num_sizes=num_sizes))
    _loop(alone, one, whole, config=config).run(StopRequest())
    other = _state(MemoryStream(3, num_sizes=num_sizes))
    _loop(alone, other, parts, config=replace(config, accumulation=4)).run(StopRequest())
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)
    norms = [[figures["grad_norm"] for figures in run.figures.values()] for run in (whole, parts)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_loss_is_the_mean_over_valid_rows(alone: Distributed) -> None:
    """An untrained model predicts 0, so the loss of a row is that of the velocity alone."""
    recorded = Recorded()
    _loop(alone, _state(MemoryStream(8)), recorded).run(StopRequest())
    batch = next(iter(MemoryStream(8))).micro_batches()[0]
    assert len(batch.positions) == sum(is_valid(position) for position in range(8)) == 7
    drawn = draw(FlowConfig(), 1.0, seed=3, positions=batch.positions, shape=(3, 8, 8), device=torch.device("cpu"))
    assert recorded.losses[0] == pytest.approx(float((drawn.noise - batch.latents).square().mean()), rel=1e-5)


def test_stop_request_ends_after_the_step_with_a_checkpoint(alone: Distributed) -> None:
    recorded, stop, evaluated = Recorded(), StopRequest(), []
    state = _state(MemoryStream(8))

    def note(step: int, _: list[Batch]) -> None:
        stop.requested = step == 2

    loop = _loop(alone, state, recorded, on_batches=note, due=[Due(100, lambda: evaluated.append(0))])
    assert not loop.run(stop)
    assert recorded.saved == [(3, 24)]
    assert recorded.waits == 1
    assert evaluated == []


def test_run_goes_on_from_its_state(alone: Distributed) -> None:
    """The seed and the positions decide all that is random, so half a run and its other half are a whole one."""
    whole, halves = Recorded(), Recorded()
    _loop(alone, _state(MemoryStream(8)), whole).run(StopRequest())
    state, first = _state(MemoryStream(8)), LoopConfig(num_steps=3, accumulation=1, log_every=1, checkpoint_every=4)
    _loop(alone, state, halves, config=first).run(StopRequest())
    _loop(alone, state, halves).run(StopRequest())
    assert halves.losses == whole.losses


def test_diverged_run_ends_and_saves_nothing(alone: Distributed) -> None:
    recorded = Recorded()
    state = _state(MemoryStream(8))
    with torch.no_grad():
        state.model.proj_out.bias.fill_(float("nan"))
    config = LoopConfig(num_steps=6, accumulation=1, log_every=50, checkpoint_every=2)
    with pytest.raises(DivergedError) as error:
        _loop(alone, state, recorded, config=config).run(StopRequest())
    assert error.value.code == "loss-not-finite"
    assert recorded.saved == []


def test_error_of_the_stream_is_raised(alone: Distributed) -> None:
    recorded = Recorded()
    with pytest.raises(OSError, match="on fire"):
        _loop(alone, _state(MemoryStream(8, fails_at=16)), recorded).run(StopRequest())
    assert list(recorded.figures) == [1, 2]


def test_step_without_a_valid_row_changes_nothing(alone: Distributed) -> None:
    recorded = Recorded()
    stream = MemoryStream(1, position=2)
    state = _state(stream)
    config = LoopConfig(num_steps=1, accumulation=1, log_every=1, checkpoint_every=9)
    _loop(alone, state, recorded, config=config).run(StopRequest())
    weights = [parameter.clone() for parameter in state.model.parameters()]
    # Position 3 is not valid.
    _loop(alone, state, recorded, config=replace(config, num_steps=2)).run(StopRequest())
    assert recorded.figures[2]["loss"] == 0
    assert (state.step, stream.position) == (2, 4)
    assert all(torch.equal(a, b) for a, b in zip(weights, state.model.parameters(), strict=True))

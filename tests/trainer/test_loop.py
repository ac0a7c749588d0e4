"""The loop and its steps, on batches of memory."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.loopback import loopback_command
from tests.trainer.memory_stream import MemoryStream, is_valid
from tests.trainer.memory_training import GLOBAL_BATCH, OPTIMIZER, SIX_STEPS, Recorded, make_loop, make_state
from trainer.distributed import Distributed, connected
from trainer.flow import FlowConfig, draw
from trainer.loop import Due, Loop, LoopConfig
from trainer.meter import DivergedError
from trainer.stopping import StopRequest
from trainer.stream.batch import Batch


@pytest.fixture
def alone() -> Iterator[Distributed]:
    with connected("cpu", 60.0) as distributed:
        yield distributed


def test_trains_saves_and_reports(alone: Distributed) -> None:
    recorded, seen, evaluated = Recorded(), [], []
    state = make_state(MemoryStream(8), alone)

    def note(step: int, batches: list[Batch]) -> None:
        seen.append((step, batches[0].position))

    due = [Due(4, lambda: evaluated.append(state.step))]
    assert make_loop(alone, state, recorded, due=due, on_batches=note).run(StopRequest())
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
    make_loop(alone, make_state(_Repeating(4), alone), recorded, config=config).run(StopRequest())
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
    one = make_state(MemoryStream(12, num_sizes=num_sizes), alone)
    make_loop(alone, one, whole, config=config).run(StopRequest())
    other = make_state(MemoryStream(3, num_sizes=num_sizes), alone)
    make_loop(alone, other, parts, config=replace(config, accumulation=4)).run(StopRequest())
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)
    norms = [[figures["grad_norm"] for figures in run.figures.values()] for run in (whole, parts)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_loss_is_the_mean_over_valid_rows(alone: Distributed) -> None:
    """An untrained model predicts 0, so the loss of a row is that of the velocity alone."""
    recorded = Recorded()
    make_loop(alone, make_state(MemoryStream(8), alone), recorded).run(StopRequest())
    batch = next(iter(MemoryStream(8))).micro_batches()[0]
    assert len(batch.positions) == sum(is_valid(position) for position in range(8)) == 7
    drawn = draw(FlowConfig(), 1.0, seed=3, positions=batch.positions, shape=(3, 8, 8), device=torch.device("cpu"))
    assert recorded.losses[0] == pytest.approx(float((drawn.noise - batch.latents).square().mean()), rel=1e-5)


def test_stop_request_ends_after_the_step_with_a_checkpoint(alone: Distributed) -> None:
    recorded, stop, evaluated = Recorded(), StopRequest(), []
    state = make_state(MemoryStream(8), alone)

    def note(step: int, _: list[Batch]) -> None:
        stop.requested = step == 2

    loop = make_loop(alone, state, recorded, on_batches=note, due=[Due(100, lambda: evaluated.append(0))])
    assert not loop.run(stop)
    assert recorded.saved == [(3, 24)]
    assert recorded.waits == 1
    assert evaluated == []


def _ticking() -> Callable[[], float]:
    """A clock that is a second further at every look, beginning anywhere."""
    times = itertools.count(1000)
    return lambda: float(next(times))


def test_run_is_complete_when_its_time_is_up(alone: Distributed) -> None:
    """The step that begins after the limit is the last; all that belongs to an end happens; a resume finds it done."""
    recorded, evaluated = Recorded(), []
    state = make_state(MemoryStream(8), alone)
    cosine = replace(OPTIMIZER, schedule="cosine", final_share=0.1)
    limited = replace(SIX_STEPS, num_steps=1000, checkpoint_every=1000, max_seconds=4.0)

    def loop(config: LoopConfig) -> Loop:
        due = [Due(1000, lambda: evaluated.append(state.step))]
        return make_loop(alone, state, recorded, config=config, optimizer=cosine, due=due, clock=_ticking())

    assert loop(limited).run(StopRequest())
    assert (state.step, state.seconds) == (4, 4.0)
    assert (recorded.saved, evaluated) == ([(4, 32)], [4])
    rates = [figures["learning_rate"] for figures in recorded.figures.values()]
    # Two steps of warm-up, then the cosine at three quarters of the time and at its end.
    assert rates == pytest.approx([0.005, 0.01, 0.01 * (0.1 + 0.9 * 0.1464466), 0.001])
    assert recorded.figures[4]["training_seconds"] == 4.0

    assert loop(limited).run(StopRequest())
    assert (state.step, recorded.saved, evaluated) == (4, [(4, 32)], [4])

    assert loop(replace(limited, max_seconds=6.0)).run(StopRequest())
    assert (state.step, state.seconds) == (6, 6.0)


def test_stopped_run_keeps_its_time(alone: Distributed) -> None:
    recorded, stop = Recorded(), StopRequest()
    state = make_state(MemoryStream(8), alone)
    limited = replace(SIX_STEPS, max_seconds=4.0)
    stop.requested = True
    assert not make_loop(alone, state, recorded, config=limited, clock=_ticking()).run(stop)
    assert (state.step, state.seconds) == (1, 1.0)
    assert make_loop(alone, state, recorded, config=limited, clock=_ticking()).run(StopRequest())
    assert (state.step, state.seconds) == (4, 4.0)


def test_run_goes_on_from_its_state(alone: Distributed) -> None:
    """The seed and the positions decide all that is random, so half a run and its other half are a whole one."""
    whole, halves = Recorded(), Recorded()
    make_loop(alone, make_state(MemoryStream(8), alone), whole).run(StopRequest())
    state, first = make_state(MemoryStream(8), alone), replace(SIX_STEPS, num_steps=3)
    make_loop(alone, state, halves, config=first).run(StopRequest())
    make_loop(alone, state, halves).run(StopRequest())
    assert halves.losses == whole.losses


def test_diverged_run_ends_and_saves_nothing(alone: Distributed) -> None:
    recorded = Recorded()
    state = make_state(MemoryStream(8), alone)
    with torch.no_grad():
        state.model.proj_out.bias.fill_(float("nan"))
    config = LoopConfig(num_steps=6, accumulation=1, log_every=50, checkpoint_every=2)
    with pytest.raises(DivergedError) as error:
        make_loop(alone, state, recorded, config=config).run(StopRequest())
    assert error.value.code == "loss-not-finite"
    assert recorded.saved == []


def test_error_of_the_stream_is_raised(alone: Distributed) -> None:
    recorded = Recorded()
    with pytest.raises(OSError, match="on fire"):
        make_loop(alone, make_state(MemoryStream(8, fails_at=16), alone), recorded).run(StopRequest())
    assert list(recorded.figures) == [1, 2]
    assert recorded.waits == 1


def test_step_without_a_valid_row_changes_nothing(alone: Distributed) -> None:
    recorded = Recorded()
    stream = MemoryStream(1, position=2)
    state = make_state(stream, alone)
    config = LoopConfig(num_steps=1, accumulation=1, log_every=1, checkpoint_every=9)
    make_loop(alone, state, recorded, config=config).run(StopRequest())
    weights = [parameter.clone() for parameter in state.model.parameters()]
    # Position 3 is not valid.
    make_loop(alone, state, recorded, config=replace(config, num_steps=2)).run(StopRequest())
    assert recorded.figures[2]["loss"] == 0
    assert (state.step, stream.position) == (2, 4)
    assert all(torch.equal(a, b) for a, b in zip(weights, state.model.parameters(), strict=True))


def test_ranks_train_what_one_would_and_fail_together(alone: Distributed, repository: Path) -> None:
    """Two processes with unequal numbers of picture sizes; then one whose data fails."""
    recorded = Recorded()
    state = make_state(MemoryStream(GLOBAL_BATCH, num_sizes=2), alone)
    make_loop(alone, state, recorded).run(StopRequest())
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = str(repository / "tests" / "trainer" / "ranks_program.py")
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        loopback_command([sys.executable, *command, program]),
        env=environment, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("loss", "grad_norm"):
        figures = [values[name] for values in found["figures"].values()]
        assert figures == pytest.approx([values[name] for values in recorded.figures.values()], rel=1e-4)
    for name in ("loss", "grad_norm"):
        figures = [values[name] for values in found["accumulated"].values()]
        assert figures == pytest.approx([values[name] for values in recorded.figures.values()], rel=1e-4)
    # One reduction for each of the model's three shard groups and each of six steps, whatever the number of passes.
    assert found["num_passes"] > 2 * 6
    assert found["num_reductions"] == 3 * 6
    assert found["ended_at"] == [4, 4]
    assert found["step"] == 2
    assert "rank 1 of 2" in found["raised"]
    assert "the disk is on fire" in found["raised"]

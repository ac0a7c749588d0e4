"""Checkpointing, compilation and FSDP change how the model is computed, and not what."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from tests.trainer.memory_stream import MODEL, micro_batch
from trainer.distributed import Distributed, connected
from trainer.ema import Ema
from trainer.flow import FlowConfig, draw, fixed_draw, row_losses
from trainer.model import build_model
from trainer.optimizer import OptimizerConfig, build_optimizer, clip_gradients
from trainer.parallelize import ParallelConfig, parallelize

PLAIN = ParallelConfig(dtype="float32")


@pytest.fixture
def alone() -> Iterator[Distributed]:
    with connected("cpu", 60.0) as distributed:
        yield distributed


def _losses(config: ParallelConfig, distributed: Distributed, *, steps: int = 4) -> list[float]:
    """Of training, then of the averaged weights, then of one more step."""
    model = build_model(MODEL, seed=1)
    names = list(model.state_dict())
    parallelize(model, config, distributed.mesh)
    assert list(model.state_dict()) == names
    optimizer, ema = build_optimizer(model, OptimizerConfig(learning_rate=0.01)), Ema(model, 0.5)
    batch = micro_batch([0, 1, 2, 4])
    shape = batch.latents.shape[1:]
    found = []
    for step in range(steps):
        drawn = draw(FlowConfig(), 1.0, seed=step, positions=batch.positions, shape=shape, device=distributed.device)
        loss = row_losses(model, batch, drawn).mean()
        loss.backward()
        norm = clip_gradients(model, 0.1)
        assert not isinstance(norm, DTensor)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(step)
        fixed = fixed_draw(0.5, seed=0, positions=batch.positions, shape=shape, device=distributed.device)
        with torch.no_grad(), ema.in_model():
            averaged = row_losses(model, batch, fixed).mean()
        found += [float(loss.detach()), float(norm), float(averaged)]
    return found


def test_checkpointing_changes_nothing(alone: Distributed) -> None:
    config = ParallelConfig(dtype="float32", activation_checkpointing=True)
    assert _losses(config, alone) == _losses(PLAIN, alone)


def test_checkpointing_computes_blocks_twice(alone: Distributed) -> None:
    counts = []
    for again in (False, True):
        model = build_model(MODEL, seed=1)
        calls: list[None] = []
        block = model.transformer_blocks[0]
        block.ff.register_forward_pre_hook(lambda *_, calls=calls: calls.append(None))
        parallelize(model, ParallelConfig(dtype="float32", activation_checkpointing=again), alone.mesh)
        batch = micro_batch([0])
        drawn = fixed_draw(0.5, seed=0, positions=batch.positions, shape=batch.latents.shape[1:], device=alone.device)
        row_losses(model, batch, drawn).sum().backward()
        counts.append(len(calls))
    assert counts == [1, 2]


def test_blocks_compile_whole(alone: Distributed, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what a test can wait for: the graph is captured, in one piece, and run without code generation."""
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    found = _losses(ParallelConfig(dtype="float32", compile=True), alone)
    assert found == pytest.approx(_losses(PLAIN, alone), rel=1e-5)
    # Blocks but the last share one; each with gradients and without.
    assert len(compiled) == 4


def test_half_precision_computes_the_same_but_for_rounding(alone: Distributed) -> None:
    """Also that gathered weights are never stale after the average was in the model."""
    half = _losses(ParallelConfig(), alone, steps=6)
    assert half == pytest.approx(_losses(PLAIN, alone, steps=6), rel=0.03)
    assert half != _losses(PLAIN, alone, steps=6)


@pytest.mark.parametrize("reshard", [True, False])
def test_validation_leaves_no_trace_in_training(alone: Distributed, reshard: bool) -> None:
    config = ParallelConfig(reshard_after_forward=reshard)
    outs = []
    for validates in (False, True):
        model = build_model(MODEL, seed=1)
        parallelize(model, config, alone.mesh)
        ema, optimizer = Ema(model, 0.9), build_optimizer(model, OptimizerConfig(learning_rate=0.05))
        batch = micro_batch([0, 1])
        drawn = fixed_draw(0.5, seed=0, positions=batch.positions, shape=batch.latents.shape[1:], device=alone.device)
        for step in range(5):
            loss = row_losses(model, batch, drawn).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            ema.update(step)
            if validates:
                with torch.no_grad(), ema.in_model():
                    row_losses(model, batch, drawn)
        outs.append(float(loss.detach()))
    assert outs[0] == outs[1]


def test_half_precision_keeps_weights_and_timesteps_whole(alone: Distributed) -> None:
    model = build_model(MODEL, seed=1)
    seen: dict[str, torch.dtype] = {}
    model.time_text_embed.time_proj.register_forward_pre_hook(lambda _, args: seen.update(timestep=args[0].dtype))
    model.transformer_blocks[1].register_forward_pre_hook(
        lambda _, __, inputs: seen.update(hidden=inputs["hidden_states"].dtype), with_kwargs=True
    )
    parallelize(model, ParallelConfig(), alone.mesh)
    assert isinstance(model, FSDPModule)
    batch = micro_batch([0])
    drawn = fixed_draw(0.737, seed=0, positions=batch.positions, shape=batch.latents.shape[1:], device=alone.device)
    row_losses(model, batch, drawn).sum().backward()
    assert seen == {"timestep": torch.float32, "hidden": torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


def test_one_rank_in_float32_is_left_as_it_is(alone: Distributed) -> None:
    model = build_model(MODEL, seed=1)
    parallelize(model, PLAIN, alone.mesh)
    assert not isinstance(model, FSDPModule)

"""Rectified flow: diffusers' conventions, the distribution of timesteps, draws by position."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import nn

from schemas.errors import ConfigError
from tests.trainer.memory_stream import micro_batch
from trainer.flow import TIMESTEP_SCALE, FlowConfig, FlowDraw, draw, fixed_draw, noised, row_losses, shift_timesteps

CPU = torch.device("cpu")
SHAPE = (3, 8, 8)


class _Fixed(nn.Module):
    """Predicts what it is told, and remembers its timesteps."""

    def __init__(self, prediction: torch.Tensor) -> None:
        super().__init__()
        self.prediction = prediction

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor]:
        self.timestep = inputs["timestep"]
        return (self.prediction,)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_noise_and_timesteps_are_those_of_the_scheduler(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    batch = micro_batch([0, 1, 2])
    timesteps = scheduler.timesteps[[0, 300, 999]]
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(0))
    drawn = FlowDraw(timesteps / TIMESTEP_SCALE, noise)
    torch.testing.assert_close(noised(batch.latents, drawn), scheduler.scale_noise(batch.latents, timesteps, noise))
    assert torch.allclose(shift_timesteps(torch.linspace(0.001, 1, 1000), shift) * 1000, scheduler.timesteps.flip(0))


def test_true_velocity_has_no_loss_and_leads_the_scheduler_back() -> None:
    batch = micro_batch([0, 1])
    drawn = fixed_draw(0.25, seed=0, positions=batch.positions, shape=SHAPE, device=CPU)
    velocity = drawn.noise - batch.latents
    model = _Fixed(velocity)
    assert torch.equal(row_losses(model, batch, drawn), torch.zeros(2))
    assert torch.equal(model.timestep, torch.full((2,), 250.0))
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    found = drawn.noise
    for timestep in scheduler.timesteps:
        found = scheduler.step(velocity, timestep, found, return_dict=False)[0]
    torch.testing.assert_close(found, batch.latents, atol=1e-5, rtol=1e-5)


def test_loss_is_a_mean_over_each_sample() -> None:
    batch = micro_batch([0, 1])
    drawn = fixed_draw(0.5, seed=0, positions=batch.positions, shape=SHAPE, device=CPU)
    error = torch.tensor([1.0, 3.0])[:, None, None, None]
    losses = row_losses(_Fixed(drawn.noise - batch.latents + error), batch, drawn)
    torch.testing.assert_close(losses, torch.tensor([1.0, 9.0]))


def _many(config: FlowConfig, shift: float = 1.0) -> torch.Tensor:
    return draw(config, shift, seed=0, positions=np.arange(4000), shape=(1, 1, 1), device=CPU).timesteps


def test_timesteps_are_logit_normal_and_shifted() -> None:
    logits = torch.logit(_many(FlowConfig(logit_mean=0.5, logit_std=2.0)).double())
    assert abs(float(logits.mean()) - 0.5) < 0.1
    assert abs(float(logits.std()) - 2.0) < 0.1
    plain, shifted = _many(FlowConfig()), _many(FlowConfig(), 3.0)
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain))


def test_draws_depend_on_seed_and_position_alone() -> None:
    config = FlowConfig()
    alone = draw(config, 1.0, seed=5, positions=np.array([9]), shape=SHAPE, device=CPU)
    others = draw(config, 1.0, seed=5, positions=np.array([3, 9, 4]), shape=SHAPE, device=CPU)
    assert torch.equal(alone.noise[0], others.noise[1])
    assert torch.equal(alone.timesteps[0], others.timesteps[1])
    another = draw(config, 1.0, seed=6, positions=np.array([9]), shape=SHAPE, device=CPU)
    fixed = fixed_draw(0.5, seed=5, positions=np.array([9]), shape=SHAPE, device=CPU)
    rows = [alone.noise[0], others.noise[0], others.noise[2], another.noise[0], fixed.noise[0]]
    assert len({float(row.sum()) for row in rows}) == len(rows)
    assert abs(float(torch.stack(rows).std()) - 1) < 0.1


def test_shift_follows_the_resolution() -> None:
    assert FlowConfig().resolved_shift(1024) == 3.0
    assert FlowConfig().resolved_shift(512) == 1.5
    assert FlowConfig().resolved_shift(64) == 1.0
    assert FlowConfig(shift=2.5).resolved_shift(64) == 2.5
    with pytest.raises(ConfigError):
        FlowConfig(shift=0.0)

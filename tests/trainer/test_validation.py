"""The loss on held-out samples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from schemas.errors import ConfigError
from tests.trainer.memory_stream import MODEL, is_valid, make_batch, normals, placeholder
from trainer.distributed import Distributed, connected
from trainer.flow import fixed_draw
from trainer.model import build_model
from trainer.stream.batch import Batch
from trainer.validation import ValidationConfig, validation_losses


@pytest.fixture
def alone() -> Iterator[Distributed]:
    with connected("cpu", 60.0) as distributed:
        yield distributed


def _batches(sizes: list[int], **options: int) -> Iterator[Batch]:
    position = 0
    for size in sizes:
        yield make_batch(list(range(position, position + size)), position + size, **options)
        position += size


def _losses(alone: Distributed, model: torch.nn.Module, batches: Iterator[Batch], seed: int = 0) -> dict[str, float]:
    times = (0.25, 0.75)
    return validation_losses(model, batches, alone, timesteps=times, seed=seed, placeholder=placeholder())


def test_mean_over_valid_samples_and_timesteps(alone: Distributed) -> None:
    """An untrained model predicts 0."""
    found = _losses(alone, build_model(MODEL, seed=0), _batches([4, 4]))
    expected = []
    for position in filter(is_valid, range(8)):
        batch = make_batch([position], 0).micro_batches()[0]
        drawn = fixed_draw(0.25, seed=0, positions=batch.positions, shape=(3, 8, 8), device=alone.device)
        expected.append(float((drawn.noise - batch.latents).square().mean()))
    assert found["validation_loss/t=0.25"] == pytest.approx(sum(expected) / 7, rel=1e-5)
    assert set(found) == {"validation_loss", "validation_loss/t=0.25", "validation_loss/t=0.75"}


@pytest.mark.parametrize("num_sizes", [1, 2])
def test_loss_is_of_the_weights_and_not_of_the_batches(alone: Distributed, num_sizes: int) -> None:
    model = build_model(MODEL, seed=0)
    for number, parameter in enumerate(model.parameters()):
        parameter.data = 0.1 * normals(number, *parameter.shape)
    one = _losses(alone, model, _batches([12], num_sizes=num_sizes))
    assert one["validation_loss/t=0.25"] != one["validation_loss/t=0.75"]
    assert one == pytest.approx(_losses(alone, model, _batches([4, 4, 4], num_sizes=num_sizes)), rel=1e-5)
    assert one == _losses(alone, model, _batches([12], num_sizes=num_sizes))
    assert one != _losses(alone, model, _batches([12], num_sizes=num_sizes), seed=1)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_error_of_the_held_out_stream_is_raised(alone: Distributed) -> None:
    def broken() -> Iterator[Batch]:
        yield make_batch([0], 1)
        raise OSError("the disk is on fire")

    with pytest.raises(OSError, match="on fire"):
        _losses(alone, build_model(MODEL, seed=0), broken())


@pytest.mark.parametrize("timesteps", [(), (0.0,), (1.5,)])
def test_timesteps_are_between_data_and_noise(timesteps: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="option-out-of-range"):
        ValidationConfig(timesteps=timesteps)

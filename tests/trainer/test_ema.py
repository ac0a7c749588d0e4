"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch

from schemas.errors import ConfigError
from trainer.ema import Ema, EmaConfig


def _model(value: float) -> torch.nn.Linear:
    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def test_average_follows_with_warm_up() -> None:
    model = _model(0.0)
    ema = Ema(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema.update(0)  # decay 1/10
    torch.testing.assert_close(ema.averages["weight"], torch.full((2, 3), 0.9))
    ema.update(1000)  # decay 0.9
    torch.testing.assert_close(ema.averages["weight"], torch.full((2, 3), 0.91))
    assert torch.equal(ema.averages["bias"], torch.zeros(2))


def test_exchange_is_undone_bit_for_bit() -> None:
    model = _model(0.1)
    ema = Ema(model, 0.9)
    with torch.no_grad():
        model.weight.normal_()
    ema.update(3)
    weights, averages = model.weight.clone(), ema.averages["weight"].clone()

    def fail() -> None:
        assert torch.equal(model.weight, averages)
        raise KeyError

    with pytest.raises(KeyError), ema.in_model():
        fail()
    assert torch.equal(model.weight, weights)
    assert torch.equal(ema.averages["weight"], averages)


def test_state_goes_into_another_average() -> None:
    ema, other = Ema(_model(0.25), 0.9), Ema(_model(4.0), 0.9)
    other.load_state_dict({name: tensor.clone() for name, tensor in ema.state_dict().items()})
    assert all(torch.equal(other.averages[name], tensor) for name, tensor in ema.averages.items())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_is_a_share(decay: float) -> None:
    with pytest.raises(ConfigError, match="option-out-of-range"):
        EmaConfig(decay=decay)

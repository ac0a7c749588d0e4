"""AdamW's groups, its learning rate, and clipping."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from schemas.errors import ConfigError
from tests.trainer.memory_stream import MODEL
from trainer.model import build_model
from trainer.optimizer import OptimizerConfig, build_optimizer, clip_gradients, set_learning_rate

CONFIG = OptimizerConfig(learning_rate=0.4, warmup_steps=4, weight_decay=0.1)


def test_warm_up_then_constant_or_cosine() -> None:
    assert [CONFIG.rate_at(step, 100) for step in (0, 1, 3, 4, 99)] == pytest.approx([0.1, 0.2, 0.4, 0.4, 0.4])
    cosine = replace(CONFIG, schedule="cosine", final_share=0.1)
    assert [cosine.rate_at(step, 104) for step in (3, 4, 54, 104, 200)] == pytest.approx([0.4, 0.4, 0.22, 0.04, 0.04])
    assert OptimizerConfig(warmup_steps=0).rate_at(0, 10) == 1e-4


def test_cosine_follows_the_clock_where_it_is_ahead() -> None:
    cosine = replace(CONFIG, schedule="cosine", warmup_steps=4, final_share=0.1)
    rates = [cosine.rate_at(4, 104, time_share=share) for share in (0.0, 0.5, 1.0, 1.5)]
    assert rates == pytest.approx([0.4, 0.22, 0.04, 0.04])
    assert cosine.rate_at(54, 104, time_share=0.25) == cosine.rate_at(54, 104)
    assert [cosine.rate_at(1, 104, time_share=1.0), CONFIG.rate_at(9, 10, time_share=1.0)] == pytest.approx([0.2, 0.4])


def test_only_matrices_decay() -> None:
    model = build_model(MODEL, seed=0)
    optimizer = build_optimizer(model, CONFIG)
    decayed, others = optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in others["params"]} == {1}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    set_learning_rate(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}


def test_norm_over_the_whole_model_is_clipped() -> None:
    model = torch.nn.Linear(2, 2)
    model.weight.grad, model.bias.grad = torch.full((2, 2), 3.0), torch.full((2,), 4.0)
    before = (4 * 9 + 2 * 16) ** 0.5
    assert float(clip_gradients(model, 2.0)) == pytest.approx(before)
    assert torch.cat([model.weight.grad.flatten(), model.bias.grad]).norm() == pytest.approx(2.0, rel=1e-4)
    assert float(clip_gradients(model, 5.0)) == pytest.approx(2.0, rel=1e-4)
    assert torch.cat([model.weight.grad.flatten(), model.bias.grad]).norm() == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("change", [{"learning_rate": 0.0}, {"warmup_steps": -1}, {"max_grad_norm": 0.0}])
def test_numbers_that_mean_nothing_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="option-out-of-range"):
        replace(CONFIG, **change)

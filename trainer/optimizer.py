"""AdamW, its learning rate, and the clipping of gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from schemas.errors import ConfigError


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule."""

    learning_rate: float = 1e-4
    """After the warm-up."""

    warmup_steps: int = 1000
    """Steps over which the learning rate rises in proportion, from nothing."""

    schedule: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up: the same rate to the end, or a half cosine down to `final_share` of it."""

    final_share: float = 0.1
    """Of the learning rate, at the end of a cosine."""

    weight_decay: float = 0.01
    """Of matrices and convolutions; norms and biases are never decayed."""

    betas: tuple[float, float] = (0.9, 0.95)
    """Decays of the two moments."""

    eps: float = 1e-8
    """Added to the root of the second moment."""

    max_grad_norm: float = 1.0
    """Gradients whose norm, over the whole model, is larger are scaled down to it."""

    def __post_init__(self) -> None:
        """Refuses numbers that mean nothing."""
        wrong = [name for name in ("learning_rate", "eps", "max_grad_norm") if getattr(self, name) <= 0]
        wrong += [name for name in ("warmup_steps", "weight_decay", "final_share") if getattr(self, name) < 0]
        if wrong:
            raise ConfigError(
                "option-out-of-range",
                where=", ".join(f"--optimizer.{name.replace('_', '-')}" for name in wrong),
                expected="a number above 0 (warmup-steps, weight-decay and final-share: not below)",
                actual=", ".join(str(getattr(self, name)) for name in wrong),
                remedy="choose another value, or leave the option out",
            )

    def rate_at(self, step: int, num_steps: int, *, time_share: float = 0.0) -> float:
        """The learning rate of a step.

        Args:
            step: Counted from 0.
            num_steps: Of the whole run.
            time_share: Share of the run's time limit that has passed before the step, from 0; 0 without a limit. A
                cosine follows it where it is ahead of the steps.
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        step_share = (step - self.warmup_steps) / max(1, num_steps - self.warmup_steps)
        share = min(1.0, max(step_share, time_share))
        return self.learning_rate * (self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * share)))


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over a model that has been parallelised; fused: one pass over the memory a step."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next step: a function of the step alone, so there is no scheduler with a state."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip_gradients(model: nn.Module, max_norm: float) -> torch.Tensor:
    """Scales all gradients so that their norm over the whole model, on all ranks, is at most `max_norm`.

    Returns:
        float32 [], the norm before; infinite or NaN if a gradient is.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if isinstance(norm, DTensor):
        # The norm of sharded gradients is a sum that has still to be added up over the ranks.
        norm = norm.full_tensor()
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm

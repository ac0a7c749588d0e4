"""What a training run is between two steps: all that a checkpoint must hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from trainer.ema import Ema


class Stateful(Protocol):
    """Something with a small state, as torchdata's loaders have it."""

    def state_dict(self) -> dict[str, Any]:
        """The state now."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""
        ...


@dataclass
class TrainState:
    """A run after `step` steps.

    There is no random state: noise, timesteps and dropout are drawn from the seed and a sample's position.

    Attributes:
        model: Sharded or whole; parameters float32.
        optimizer: Of the model's parameters.
        ema: Their moving average; None for a run without.
        stream: The position in the data.
        step: Steps done.
        seconds: Wall-clock time from the first step to the beginning of the last one, pauses between a stop and a
            resume left out; the same on all ranks.
    """

    model: nn.Module
    optimizer: Optimizer
    ema: Ema | None
    stream: Stateful
    step: int = 0
    seconds: float = 0.0

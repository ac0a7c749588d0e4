"""A training state as one flat dictionary of tensors, and back.

    model.<parameter>                     the model
    ema.<parameter>                       its moving average, if there is one
    optimizer.state.<parameter>.exp_avg   and the optimizer's other state
    rng.<rank>.cpu, rng.<rank>.device     each rank's random generators

Names are the model's own whatever wraps it (compile, activation checkpointing, FSDP2), and tensors may be DTensors, so
that any number of ranks can read what any number has written. Nothing but tensors is in it: the optimizer's options
(learning rate, betas, weight decay) are those of the run that resumes, the stream's state and the step are in
`checkpoint.json`.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


class Stateful(Protocol):
    """Anything that can say what it needs to go on, and go on from it."""

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Goes on from there."""
        ...


class TrainingState(Protocol):
    """What a checkpoint holds; `trainer.state.TrainState` is one.

    Attributes:
        model: Plain, or parallelised with FSDP2.
        optimizer: Of the model's parameters.
        ema: Moving average; its `state_dict` has the model's parameter names. None without one.
        stream: Its `state_dict` is JSON and has "position".
        step: Optimizer steps done.
        seconds: Time that they took.
    """

    @property
    def model(self) -> nn.Module:
        """Plain, or parallelised."""
        ...

    @property
    def optimizer(self) -> Optimizer:
        """Of the model's parameters."""
        ...

    @property
    def ema(self) -> Stateful | None:
        """None without one."""
        ...

    @property
    def stream(self) -> Stateful:
        """The place in the data."""
        ...

    step: int
    seconds: float


def to_tensors(state: TrainingState, *, rank: int | None) -> dict[str, torch.Tensor]:
    """The state's tensors by name; they share memory with the state.

    Args:
        state: The training state. An optimizer that has not stepped yet gets its initial state.
        rank: Whose random generators to add; None for none.
    """
    tensors: dict[str, Any] = {f"model.{name}": tensor for name, tensor in get_model_state_dict(state.model).items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in _optimizer_tensors(_optimizer_state(state)).items()}
    if state.ema is not None:
        tensors |= {f"ema.{name}": tensor for name, tensor in state.ema.state_dict().items()}
    if rank is not None:
        tensors |= {f"rng.{rank}.{name}": generator for name, generator in _random_states().items()}
    return tensors


def load_tensors(state: TrainingState, tensors: dict[str, torch.Tensor], *, rank: int | None) -> None:
    """Puts back what `to_tensors` gave, with other values.

    Args:
        state: The training state to change.
        tensors: As `to_tensors(state, rank=rank)` has them.
        rank: Whose random generators to restore; None leaves them as they are.
    """
    set_model_state_dict(state.model, _part(tensors, "model."))
    optimizer = _optimizer_state(state) | _part(tensors, "optimizer.")
    set_optimizer_state_dict(state.model, state.optimizer, optimizer, options=_FLAT)
    if state.ema is not None:
        state.ema.load_state_dict(_part(tensors, "ema."))
    if rank is not None:
        generators = _part(tensors, f"rng.{rank}.")
        torch.set_rng_state(generators["cpu"])
        if "device" in generators:
            torch.cuda.set_rng_state(generators["device"])


def random_state_names(rank: int) -> list[str]:
    """The names under which `to_tensors` has a rank's random generators."""
    return [f"rng.{rank}.{name}" for name in _random_states()]


def _optimizer_state(state: TrainingState) -> dict[str, Any]:
    optimizer: dict[str, Any] = get_optimizer_state_dict(state.model, state.optimizer, options=_FLAT)
    return optimizer


def _optimizer_tensors(optimizer: dict[str, Any]) -> dict[str, torch.Tensor]:
    # What is not a tensor there is an option, under "param_groups."; an optimizer without state has none here.
    return {
        name: value
        for name, value in optimizer.items()
        if name.startswith("state.") and isinstance(value, torch.Tensor)
    }


def _random_states() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["device"] = torch.cuda.get_rng_state()
    return states


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

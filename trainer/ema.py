"""The moving average of the weights, which samples better than the weights themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from schemas.errors import ConfigError


@dataclass(frozen=True)
class EmaConfig:
    """How slowly the average follows."""

    enabled: bool = True
    """Whether to keep an average: 4 bytes a parameter, sharded as the model is."""

    decay: float = 0.9999
    """Share of the old average that a step keeps, once the run is long."""

    def __post_init__(self) -> None:
        """Refuses what is no share."""
        if not 0 <= self.decay < 1:
            raise ConfigError(
                "option-out-of-range",
                where="--ema.decay",
                expected="a share from 0 to below 1",
                actual=str(self.decay),
                remedy="0.9999 for long runs, 0.999 for short ones",
            )


class Ema:
    """The average of a model's parameters, float32, sharded as they are.

    Early in a run the decay is (1 + n) / (10 + n) after n updates, as in TensorFlow's ExponentialMovingAverage: so the
    average leaves the initial weights behind at once.

    Args:
        model: As it is trained: parallelised, float32. The average begins at its weights.
        decay: Of a long run.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._parameters = dict(model.named_parameters())
        self._averages = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._model = model

    @property
    def averages(self) -> Mapping[str, torch.Tensor]:
        """By parameter name; DTensors where the model has them. The same tensors all the time."""
        return self._averages

    @torch.no_grad()
    def update(self, num_updates: int) -> None:
        """Follows the weights after an optimizer step.

        Args:
            num_updates: Steps of the run before this one.
        """
        decay = min(self._decay, (1 + num_updates) / (10 + num_updates))
        torch._foreach_lerp_(_local(list(self._averages.values())), _local(list(self._parameters.values())), 1 - decay)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averages by name, as tensors that a checkpoint can be loaded into."""
        return dict(self._averages)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes over averages of the same names."""
        assert state.keys() == self._averages.keys()
        for name, average in self._averages.items():
            average.copy_(state[name])

    @contextlib.contextmanager
    def in_model(self) -> Iterator[None]:
        """Exchanges the weights for their average, and back at the end, bit for bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        pairs = zip(_local(list(self._parameters.values())), _local(list(self._averages.values())), strict=True)
        for parameter, average in pairs:
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                # FSDP may hold on to the gathered weights of the last forward pass.
                module.reshard()


def _local(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """This rank's shards: every operation here is elementwise, and plain tensors are much faster than DTensors."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]

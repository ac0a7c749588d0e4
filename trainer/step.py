"""One optimizer step: agreed passes through the model, then the update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from trainer.agreement import Agreement
from trainer.distributed import Distributed
from trainer.flow import FlowConfig, draw, row_losses
from trainer.optimizer import OptimizerConfig, clip_gradients, set_learning_rate
from trainer.passes import agreed_passes, valid_sum
from trainer.state import TrainState
from trainer.stream.batch import Batch, MicroBatch


@dataclass(frozen=True)
class StepFigures:
    """What a step shows. The tensors are on the device: reading them waits for it.

    Attributes:
        loss: float32 [], mean over the valid samples of all ranks.
        grad_norm: float32 [], before clipping.
        learning_rate: Of the step.
        num_samples: Valid samples on all ranks.
    """

    loss: torch.Tensor
    grad_norm: torch.Tensor
    learning_rate: float
    num_samples: int


@dataclass(frozen=True)
class StepConfig:
    """What a step is told.

    Attributes:
        flow: Distribution of timesteps.
        shift: Their resolution shift, resolved.
        optimizer: Schedule and clipping.
        num_steps: Of the whole run, for the schedule.
        seed: Of noise and timesteps.
        max_seconds: Time limit of the whole run, for the schedule; None without one.
    """

    flow: FlowConfig
    shift: float
    optimizer: OptimizerConfig
    num_steps: int
    seed: int
    max_seconds: float | None = None


class TrainStep:
    """Trains a state, step by step.

    Args:
        state: Its model, optimizer, average and step change.
        config: How.
        distributed: The ranks.
        placeholder: As for `agreed_passes`.
    """

    def __init__(
        self, state: TrainState, config: StepConfig, distributed: Distributed, placeholder: MicroBatch
    ) -> None:
        self._state = state
        self._config = config
        self._distributed = distributed
        self._placeholder = placeholder

    def run(self, batches: Sequence[Batch], agreement: Agreement) -> StepFigures:
        """Does the step after `state.step`; collective.

        The gradient is that of the mean over all valid samples of all ranks and batches, so neither the number of ranks
        nor accumulation changes it. A step without any valid sample changes nothing.

        Args:
            batches: This rank's, one for each step of accumulation.
            agreement: Of this step.
        """
        state, options = self._state, self._config.optimizer
        rate = options.rate_at(state.step, self._config.num_steps, time_share=self._time_share(agreement.seconds))
        set_learning_rate(state.optimizer, rate)
        loss = torch.zeros((), device=self._distributed.device)
        norm = torch.zeros_like(loss)
        if agreement.num_valid:
            passes = agreed_passes(batches, agreement.num_passes, self._placeholder)
            for number, (batch, num_valid) in enumerate(passes, start=1):
                self._reduce_gradients(number == agreement.num_passes)
                loss += self._backward(batch, num_valid, agreement.num_valid)
            dist.all_reduce(loss)
            norm = clip_gradients(state.model, options.max_grad_norm)
            state.optimizer.step()
            state.optimizer.zero_grad()
            if state.ema is not None:
                state.ema.update(state.step)
        state.step += 1
        return StepFigures(loss, norm, rate, agreement.num_valid)

    def _time_share(self, seconds: float) -> float:
        limit = self._config.max_seconds
        return 0.0 if limit is None else seconds / limit

    def _reduce_gradients(self, reduce: bool) -> None:
        """Whether the next backward pass adds the gradients up over the ranks, with those of the passes before it.

        Until then each rank keeps the whole model's gradients, in float32.
        """
        model = self._state.model
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(reduce)

    def _backward(self, batch: MicroBatch, num_valid: int, num_all: int) -> torch.Tensor:
        """Adds a micro-batch's part of the gradient; returns its part of the mean over `num_all` samples."""
        config = self._config
        drawn = draw(
            config.flow,
            config.shift,
            seed=config.seed,
            positions=batch.positions,
            shape=batch.latents.shape[1:],
            device=self._distributed.device,
        )
        part = valid_sum(row_losses(self._state.model, batch, drawn), num_valid) / num_all
        # FSDP takes the mean of the ranks' gradients, where the ranks' parts are to be added.
        (part * self._distributed.world_size).backward()
        return part.detach()

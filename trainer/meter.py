"""Measures steps between two lines of progress: loss, rates, memory, and the share of time spent waiting for data."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

import torch

from schemas.errors import EncodeOnceError
from trainer.distributed import Distributed
from trainer.step import StepFigures


class DivergedError(EncodeOnceError):
    """The loss or the gradient is no longer a number."""


class Meter:
    """Adds up steps. Nothing but `figures` waits for the device.

    Args:
        distributed: The ranks.
        clock: Seconds that only go up.
    """

    def __init__(self, distributed: Distributed, clock: Callable[[], float] = time.perf_counter) -> None:
        self._distributed = distributed
        self._clock = clock
        self._begin()

    def add(self, figures: StepFigures, waiting_seconds: float) -> None:
        """Counts a step, and how much of it this rank waited for its batches."""
        self._losses.append(figures.loss)
        self._norms.append(figures.grad_norm)
        self._learning_rate = figures.learning_rate
        self._num_samples += figures.num_samples
        self._waiting_seconds += waiting_seconds

    def pass_over(self, seconds: float) -> None:
        """Leaves time out that was spent on something else than steps."""
        self._began += seconds

    def figures(self, step: int) -> dict[str, float]:
        """Figures of the steps since the last call; collective. The next ones begin now.

        Returns:
            loss (mean), grad_norm and learning_rate (of the last step), samples_per_second (all ranks),
            seconds_per_step, waiting_share (of the rank that waited most), memory_bytes (peak of the largest rank).

        Raises:
            DivergedError: On all ranks, if a loss or a gradient was infinite or NaN.
        """
        losses = torch.stack(self._losses).tolist()
        norms = torch.stack(self._norms).tolist()
        seconds = max(1e-9, self._clock() - self._began)
        if not all(abs(value) < float("inf") for value in (*losses, *norms)):
            raise _diverged(step, losses, norms)
        ranks = self._distributed.gather([seconds, self._waiting_seconds, peak_memory_bytes(self._distributed.device)])
        slowest = max(rank[0] for rank in ranks)
        found = {
            "loss": sum(losses) / len(losses),
            "grad_norm": norms[-1],
            "learning_rate": self._learning_rate,
            "samples_per_second": self._num_samples / slowest,
            "seconds_per_step": slowest / len(losses),
            "waiting_share": max(rank[1] / rank[0] for rank in ranks),
            "memory_bytes": max(rank[2] for rank in ranks),
        }
        self._begin()
        return found

    def _begin(self) -> None:
        self._began = self._clock()
        self._losses: list[torch.Tensor] = []
        self._norms: list[torch.Tensor] = []
        self._learning_rate = 0.0
        self._num_samples = 0
        self._waiting_seconds = 0.0


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process has had: of the GPU, or of the host if it trains on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _diverged(step: int, losses: list[float], norms: list[float]) -> DivergedError:
    return DivergedError(
        "loss-not-finite",
        where=f"one of the {len(losses)} steps up to {step}",
        expected="a finite loss and gradient",
        actual=f"losses {losses[-3:]}, gradient norms {norms[-3:]} (the last ones)",
        remedy="resume from the latest checkpoint with a lower --optimizer.learning-rate, or more warm-up steps",
    )

"""What a run shows while it goes: a line of progress, a history file, TensorBoard, Weights & Biases."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from schemas.errors import ConfigError
from trainer.history import History, drop_lines_after

METRICS_NAME = "metrics.jsonl"


@dataclass(frozen=True)
class MetricsConfig:
    """Where figures go. `metrics.jsonl` in the output folder always has them."""

    log_every: int = 10
    """Steps from one line to the next; its loss and rates are over these steps."""

    tensorboard: bool = True
    """Write the folder `tensorboard` of the output."""

    wandb_project: str | None = None
    """Weights & Biases project; needs the `wandb` extra."""

    def __post_init__(self) -> None:
        """Refuses what is no number of steps."""
        if self.log_every < 1:
            raise ConfigError(
                "option-out-of-range",
                where="--metrics.log-every",
                expected="a number above 0",
                actual=str(self.log_every),
                remedy="choose another value, or leave the option out",
            )


class Sink(Protocol):
    """Takes figures."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of a step."""
        ...

    def close(self) -> None:
        """No more will come."""
        ...


class Metrics:
    """Shows figures in all the ways asked for; the main rank's.

    Args:
        folder: Of the run.
        config: Where.
        num_steps: Of the whole run.
        max_seconds: Time limit of the whole run; None without one.
        first_step: Steps done before; figures of later ones, of a run that was killed, are dropped.
        run_config: Resolved configuration, for Weights & Biases.
    """

    def __init__(
        self,
        folder: Path,
        config: MetricsConfig,
        *,
        num_steps: int,
        max_seconds: float | None,
        first_step: int,
        run_config: Mapping[str, Any],
    ) -> None:
        drop_lines_after(folder / METRICS_NAME, first_step)
        self._num_steps = num_steps
        self._max_seconds = math.inf if max_seconds is None else max_seconds
        self._sinks: list[Sink] = [History(folder / METRICS_NAME)]
        if config.tensorboard:
            self._sinks.append(_TensorBoard(folder / "tensorboard", first_step))
        if config.wandb_project is not None:
            self._sinks.append(_WeightsAndBiases(config.wandb_project, folder, run_config))

    def training(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of the steps since the last line, by the names of `trainer.meter`, and `training_seconds`."""
        print(progress_line(step, self._num_steps, values, self._max_seconds), flush=True)
        self._write(step, values)

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        """Figures on held-out samples."""
        print(f"step {step:,} | validation loss {values['validation_loss']:.4f}", flush=True)
        self._write(step, values)

    def close(self) -> None:
        """Writes out what is left."""
        for sink in self._sinks:
            sink.close()

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        for sink in self._sinks:
            sink.write(step, values)


def progress_line(step: int, num_steps: int, values: Mapping[str, float], max_seconds: float = math.inf) -> str:
    """How the run stands, on one line."""
    left = min((num_steps - step) * values["seconds_per_step"], max(0.0, max_seconds - values["training_seconds"]))
    return " | ".join(
        [
            f"step {step:,}/{num_steps:,}",
            f"loss {values['loss']:.4f}",
            f"rate {values['learning_rate']:.1e}",
            f"gradient {values['grad_norm']:.2f}",
            f"{values['samples_per_second']:,.1f} samples/s",
            f"waiting for data {values['waiting_share']:.1%}",
            f"{values['memory_bytes'] / 1e9:.1f} GB",
            f"{timedelta(seconds=math.ceil(left))} left",
        ]
    )


class _TensorBoard:
    def __init__(self, folder: Path, first_step: int) -> None:
        # Here and not above: it takes a second to import.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, project: str, folder: Path, run_config: Mapping[str, Any]) -> None:
        try:
            wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise ConfigError(
                "wandb-missing",
                where="--metrics.wandb-project",
                expected="the package wandb",
                actual=str(error),
                remedy="pip install 'encode-once[wandb]', or leave the option out",
            ) from error
        name = f"{folder.resolve().name}-{int(time.time())}"
        self._run = wandb.init(project=project, name=name, dir=str(folder), config=dict(run_config))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()

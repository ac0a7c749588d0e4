"""Figures: how they are measured, shown and kept."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from schemas.errors import ConfigError
from tests.trainer.thread_ranks import ThreadRank, on_ranks
from trainer.history import History, drop_lines_after, read_history
from trainer.meter import DivergedError, Meter
from trainer.metrics import Metrics, MetricsConfig, progress_line
from trainer.step import StepFigures

VALUES = {
    "loss": 0.5, "grad_norm": 1.25, "learning_rate": 1e-4, "samples_per_second": 1234.5, "seconds_per_step": 0.5,
    "waiting_share": 0.0123, "memory_bytes": 3.2e9, "training_seconds": 500.0,
}  # fmt: skip


def _figures(loss: float, norm: float = 1.0, num_samples: int = 8) -> StepFigures:
    return StepFigures(torch.tensor(loss), torch.tensor(norm), 1e-3, num_samples)


def test_meter_measures_steps_between_calls() -> None:
    times = iter([0.0, 4.0, 4.0, 10.0, 10.0])

    def work(rank: ThreadRank) -> list[dict[str, float]]:
        meter = Meter(rank, clock=lambda: next(times))
        meter.add(_figures(1.0), 0.5)
        meter.add(_figures(3.0, norm=2.0), 0.5)
        found = [meter.figures(2)]
        meter.add(_figures(5.0), 0.0)
        meter.pass_over(4.0)
        return [*found, meter.figures(3)]

    [[first, second]] = on_ranks(1, work)
    assert first == first | {"loss": 2.0, "grad_norm": 2.0, "learning_rate": 1e-3, "samples_per_second": 4.0}
    assert first == first | {"seconds_per_step": 2.0, "waiting_share": 0.25}
    assert first["memory_bytes"] > 10**7
    assert second == second | {"loss": 5.0, "samples_per_second": 4.0, "waiting_share": 0.0, "seconds_per_step": 2.0}


def test_meter_shows_the_rank_that_waits_most() -> None:
    def work(rank: ThreadRank) -> dict[str, float]:
        times = iter([0.0, 10.0, 10.0])
        meter = Meter(rank, clock=lambda: next(times))
        meter.add(_figures(1.0), [1.0, 4.0][rank.rank])
        return meter.figures(1)

    assert [found["waiting_share"] for found in on_ranks(2, work)] == [0.4, 0.4]


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (1.0, float("inf"))])
def test_meter_refuses_what_is_not_finite(loss: float, norm: float) -> None:
    def work(rank: ThreadRank) -> object:
        meter = Meter(rank)
        meter.add(_figures(loss, norm), 0.0)
        meter.add(_figures(1.0), 0.0)
        return meter.figures(2)

    assert all(isinstance(error, DivergedError) for error in on_ranks(2, work))


def test_progress_line() -> None:
    assert progress_line(1000, 3000, VALUES) == (
        "step 1,000/3,000 | loss 0.5000 | rate 1.0e-04 | gradient 1.25 | 1,234.5 samples/s"
        " | waiting for data 1.2% | 3.2 GB | 0:16:40 left"
    )
    assert progress_line(1000, 3000, VALUES, max_seconds=590.0).endswith(" | 0:01:30 left")
    assert progress_line(1000, 3000, VALUES, max_seconds=499.0).endswith(" | 0:00:00 left")
    assert progress_line(2999, 3000, VALUES, max_seconds=590.0).endswith(" | 0:00:01 left")


def test_figures_are_kept_once_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(first: int, last: int) -> None:
        metrics = Metrics(tmp_path, MetricsConfig(), num_steps=9, max_seconds=None, first_step=first, run_config={})
        for step in range(first + 1, last + 1):
            metrics.training(step, VALUES | {"loss": float(last)})
        metrics.validation(last, {"validation_loss": 0.25, "validation_loss/t=0.5": 0.5})
        metrics.close()

    run(0, 4)
    run(2, 3)
    lines = read_history(tmp_path / "metrics.jsonl")
    assert [(line["step"], line.get("loss")) for line in lines] == [(1, 4.0), (2, 4.0), (3, 3.0), (3, None)]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"loss", "waiting_share", "validation_loss/t=0.5"} <= set(events.Tags()["scalars"])
    assert {event.step for event in events.Scalars("loss")} == {1, 2, 3}
    assert "step 3 | validation loss 0.2500" in capsys.readouterr().out


def test_history_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.jsonl"
    history = History(path)
    for step in (1, 2, 3):
        history.write(step, {"value": step * 10})
    assert [line["value"] for line in read_history(path)] == [10, 20, 30]
    history.close()
    path.write_text(path.read_text() + '{"step": 4, "val')
    assert len(read_history(path)) == 3
    drop_lines_after(path, 2)
    assert path.read_text() == '{"step": 1, "value": 10}\n{"step": 2, "value": 20}\n'
    assert read_history(tmp_path / "none.jsonl") == []
    drop_lines_after(tmp_path / "none.jsonl", 2)
    assert not (tmp_path / "none.jsonl").exists()


def test_weights_and_biases_gets_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            calls.append((step, values["loss"]))

        def finish(self) -> None:
            calls.append(("finish",))

    module = ModuleType("wandb")
    module.init = lambda **options: calls.append((options["project"], options["config"])) or Run()
    monkeypatch.setitem(sys.modules, "wandb", module)
    config = MetricsConfig(tensorboard=False, wandb_project="pictures")
    metrics = Metrics(tmp_path, config, num_steps=9, max_seconds=None, first_step=0, run_config={"seed": 1})
    metrics.training(1, VALUES)
    metrics.close()
    assert calls == [("pictures", {"seed": 1}), (1, 0.5), ("finish",)]


def test_missing_weights_and_biases_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError) as error:
        Metrics(tmp_path, MetricsConfig(wandb_project="x"), num_steps=1, max_seconds=None, first_step=0, run_config={})
    assert error.value.code == "wandb-missing"
    assert "encode-once[wandb]" in error.value.remedy

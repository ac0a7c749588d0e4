"""The command line, and what a resume may change."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from schemas.errors import ConfigError
from trainer.__main__ import main
from trainer.presets import PRESETS, TrainConfig, presets_with
from trainer.resuming import changes, require_resumable, resolved
from trainer.stopping import stop_on_signals


def _parse(*arguments: str) -> TrainConfig:
    return tyro.extras.overridable_config_cli(presets_with(arguments[0]), args=arguments)


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert main(["fly"]) == 2
    captured = capsys.readouterr()
    assert all(command in captured.out for command in ("train PRESET", "sample", "export"))
    assert "unknown command 'fly'" in captured.err


def test_errors_are_explained_and_tell_no_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = ["--data", f"{tmp_path}/none", "--output", f"{tmp_path}/out"]
    assert main(["train", "demo", *where, "--device", "cpu"]) == 1
    captured = capsys.readouterr().err
    assert captured.startswith("error [")
    assert "remedy:" in captured
    assert "Traceback" not in captured


def test_options_override_a_preset() -> None:
    config = _parse("sd3-medium", "--data", "a", "b", "--output", "o", "--model.depth", "6", "--flow.shift", "2")
    assert config.data == ("a", "b")
    assert (config.model.depth, config.model.heads, config.flow.shift) == (6, 6, 2.0)
    assert config.parallel.compile
    assert _parse("mmdit-d7", "--data", "a", "--output", "o").model.depth == 7
    assert all(preset.data is tyro.MISSING for _, preset in PRESETS.values())


def test_batch_is_of_all_ranks_and_passes() -> None:
    config = dataclasses.replace(_parse("demo", "--data", "a", "--output", "o"), batch_size=48, accumulation=3)
    assert config.batch_size_of_rank(4) == 4
    with pytest.raises(ConfigError) as error:
        config.batch_size_of_rank(5)
    assert error.value.code == "batch-size-indivisible"
    with pytest.raises(ConfigError, match="option-out-of-range"):
        dataclasses.replace(config, steps=0)
    with pytest.raises(ConfigError, match="--max-seconds"):
        dataclasses.replace(config, max_seconds=0.0)


def test_ranks_wait_longer_than_reads_take() -> None:
    config = _parse("demo", "--data", "a", "--output", "o", "--stream.read-attempts", "3")
    assert config.timeout_seconds() > 3 * config.stream.read_timeout_seconds
    patience = dataclasses.replace(config.parallel, timeout_seconds=7.0)
    assert dataclasses.replace(config, parallel=patience).timeout_seconds() == 7.0


def test_changes_between_runs_are_named() -> None:
    config = _parse("demo", "--data", "a", "--output", "o")
    longer = dataclasses.replace(
        config, steps=9, batch_size=4, data=("b",), optimizer=dataclasses.replace(config.optimizer, learning_rate=0.5)
    )
    found = changes(resolved(config), resolved(longer))
    assert found == {
        "data": "['a'] -> ['b']",
        "steps": f"{config.steps} -> 9",
        "batch_size": f"{config.batch_size} -> 4",
        "optimizer.learning_rate": f"{config.optimizer.learning_rate} -> 0.5",
    }
    require_resumable(found, where="here")
    assert changes(resolved(config), resolved(config)) == {}


@pytest.mark.parametrize(
    "options",
    [("--seed", "7"), ("--model.depth", "5"), ("--stream.num-streams", "3"), ("--stream.captions", "x"),
     ("--conditioning.left-out", "empty"), ("--stream.holdout-rows", "1")],
)  # fmt: skip
def test_changes_of_order_or_model_are_refused(options: tuple[str, str]) -> None:
    where = ("demo", "--data", "a", "--output", "o")
    found = changes(resolved(_parse(*where)), resolved(_parse(*where, *options)))
    with pytest.raises(ConfigError) as error:
        require_resumable(found, where="step-00000001")
    assert error.value.code == "resume-changed"
    assert options[0].removeprefix("--").replace("-", "_") in error.value.actual


@pytest.fixture
def interrupts_raise() -> Iterator[None]:
    """As in a terminal: a shell's background jobs begin with interrupts ignored, and the tests may be one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts_raise")
def test_signals_are_noted_and_a_second_interrupt_is_not_ours() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with stop_on_signals() as stop:
        assert not stop.requested
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    assert {number: signal.getsignal(number) for number in before} == before
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert {number: signal.getsignal(number) for number in before} == before

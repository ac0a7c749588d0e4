"""Real torchrun processes, killed and resumed: the run that was killed is the run that was not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from schemas.dataset import open_dataset
from schemas.ledger import part_path
from tests.integration.training import (
    consumed,
    curve,
    kill_after,
    make_data,
    make_prompts,
    start_training,
    stop_after,
    train,
    training_lines,
)
from trainer.history import read_history

STEPS = 40
BATCH = 12
# 172 rows an epoch, 4 of them rejected a shard and kind: the killed run is in its second epoch.
KILLED_AFTER = 18
CHECKPOINTS = ("--checkpoint.every-steps", "8", "--batch-size", str(BATCH))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_prompts(tmp_path_factory.mktemp("prompts") / "dataset")


@pytest.fixture(scope="module")
def whole(data: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbs."""
    output = tmp_path_factory.mktemp("whole") / "run"
    train(data, output, *_options(prompts), "--steps", str(STEPS))
    return output


@pytest.fixture(scope="module")
def killed(data: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same options that was killed in the middle of an epoch."""
    output = tmp_path_factory.mktemp("killed") / "run"
    kill_after(start_training(data, output, *_options(prompts), "--steps", "100000"), output, KILLED_AFTER)
    assert training_lines(output)[-1]["step"] < STEPS - 8, "the run was too fast to be killed in its middle"
    return output


def _options(prompts: Path) -> tuple[str, ...]:
    return (
        *CHECKPOINTS, "--prompts", str(prompts), "--images.every-steps", "100000", "--images.sampling.steps", "2",
        "--validation.every-steps", "100000",
    )  # fmt: skip


def test_resumed_run_equals_the_undisturbed_one(
    data: Path, prompts: Path, whole: Path, killed: Path, tmp_path: Path
) -> None:
    """The same number of ranks: losses, gradient norms, validation and pictures are equal to the last bit."""
    output = tmp_path / "run"
    shutil.copytree(killed, output)
    text = train(data, output, *_options(prompts), "--steps", str(STEPS))
    assert "goes on after step" in text
    assert curve(training_lines(output)) == curve(training_lines(whole))
    assert [step for step, *_ in curve(training_lines(output))] == list(range(1, STEPS + 1))
    assert read_history(output / "metrics.jsonl")[-1] == read_history(whole / "metrics.jsonl")[-1]
    assert "validation_loss" in read_history(output / "metrics.jsonl")[-1]
    assert consumed(output) == consumed(whole)
    picture = f"images/step-{STEPS:08d}.png"
    assert (output / picture).read_bytes() == (whole / picture).read_bytes()


def test_resumed_on_another_world_with_another_batch(data: Path, whole: Path, killed: Path, tmp_path: Path) -> None:
    """One rank, another batch: the samples, by position, are those of the undisturbed run. SIGTERM ends it, saved."""
    output = tmp_path / "run"
    shutil.copytree(killed, output)
    options = ("--checkpoint.every-steps", "1000", "--batch-size", "15", "--steps", "100000")
    text = stop_after(start_training(data, output, *options, ranks=1), output, STEPS)
    last = training_lines(output)[-1]["step"]
    assert (output / "checkpoints" / f"step-{last:08d}").is_dir()
    assert f"changed since the checkpoint: batch_size: {BATCH} -> 15" in text
    first, again = consumed(whole), consumed(output)
    common = min(max(first), max(again)) + 1
    assert common > 172 * 2
    assert [item for item in first.items() if item[0] < common] == [item for item in again.items() if item[0] < common]
    # Exactly once an epoch, as a multiset.
    epoch = [again[position] for position in again if 172 <= position < 344]
    assert len(epoch) == len(set(epoch)) > 160


def test_rank_that_fails_ends_all_with_its_error(data: Path, tmp_path: Path) -> None:
    """A chunk that no re-read heals: one rank reads it, both say where it is, and none waits."""
    broken = tmp_path / "dataset"
    shutil.copytree(data, broken)
    dataset = open_dataset(str(broken))
    part, chunk = list(dataset.record("txt", "shard1").chunks())[7]
    path = broken / part_path("shard1", part.name)
    content = bytearray(path.read_bytes())
    content[chunk.offset + chunk.num_bytes // 2] ^= 1
    path.write_bytes(content)
    text = train(broken, tmp_path / "run", *CHECKPOINTS, "--steps", "100", expect=1)
    assert text.count(f"error [rank-failed] rank {'0' if '] rank 0 of 2' in text else '1'} of 2") == 1
    assert text.count(part.name) >= 2

"""Checkpoints of several processes, and of processes that are killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from tests.integration.commands import REPOSITORY, environment
from tests.trainer.checkpoint_kills import MOMENTS, TIMES
from tests.trainer.checkpoint_ranks_program import model_with_a_single_row, step
from tests.trainer.runs import checkpointer, small_model, start
from trainer.checkpoint_folder import find_checkpoint, open_checkpoint
from trainer.checkpoint_state import to_tensors


def python(*arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_killed_save_is_never_resumed_from(tmp_path: Path) -> None:
    output = python("-m", "tests.trainer.checkpoint_kills", str(tmp_path)).split()
    codes = dict(zip(output[::2], output[1::2], strict=True))
    assert codes == dict.fromkeys([*MOMENTS, *map(str, TIMES)], "-9")
    steps = {}
    for moment in codes:
        state, saver = start(small_model(seed=1)), checkpointer(tmp_path / moment)
        latest = saver.latest()
        assert latest is not None
        saver.load(latest, state)
        steps[moment] = state.step
        # Only complete checkpoints are left by the start, and the next save works.
        for path in latest.parent.iterdir():
            assert open_checkpoint(path).step in (2, 3)
        saver.save(state, 4)
        saver.wait()
    assert {moment: steps[moment] for moment in MOMENTS} == {
        "staged": 2, "tensors": 2, "listing": 2, "document": 2, "renamed": 3, "removing": 3,
    }  # fmt: skip


def test_any_number_of_ranks_resumes_what_any_other_saved(tmp_path: Path) -> None:
    python("-m", "tests.trainer.checkpoint_ranks_program", str(tmp_path))
    state, saver = start(model_with_a_single_row(seed=2)), checkpointer(tmp_path)
    saver.load(find_checkpoint(tmp_path), state)
    assert (state.step, state.stream.position) == (4, 32)

    expected = start(model_with_a_single_row(seed=0))
    for _ in range(4):
        step(expected)
    left, right = to_tensors(expected, rank=None), to_tensors(state, rank=None)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.allclose(left[name], right[name], atol=1e-7)] == []

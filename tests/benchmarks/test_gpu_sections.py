"""The sections of `benchmarks.gpu` at a tiny size on the CPU: they run, and wrong values fail them."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.encode.figures import rows_table
from benchmarks.gpu.__main__ import SECTIONS
from benchmarks.gpu.profile import busy_and_span
from benchmarks.gpu.result import FAILED, PASSED, Result
from benchmarks.gpu.section import SIZES, Context, run
from benchmarks.time_budget import TimeBudget
from pipeline.encoded import CaptionTensors, EncodedBatch
from pipeline.encoders import EncoderOutput
from pipeline.transfer import Transfer
from trainer.stream.batch import Batch
from trainer.stream.upload import Uploader

# A bare machine has none of these.
_BLOCKED = ("ray", "tyro", "webdataset", "rich", "boto3", "moto")
# One process for all sections: what takes time at this size are imports.
_RUN = """
import sys
from pathlib import Path
from benchmarks.gpu.__main__ import SECTIONS
from benchmarks.gpu.result import Result
from benchmarks.gpu.section import SIZES, Context, run
from benchmarks.time_budget import TimeBudget
output, data = map(Path, sys.argv[1:3])
for section in SECTIONS:
    if section.name not in sys.argv[3:]:
        continue
    folder = data / section.name
    folder.mkdir()
    result = Result(section.name, output / f"{section.name}.json")
    run(section.target, Context(SIZES["tiny"], "cpu", 1, TimeBudget(1000.0), folder, output, result, True))
"""


_FIGURES = ("encoding", "write-path", "profile")
_STEP = "training-step"
_VALUES = tuple(section.name for section in SECTIONS if section.name not in (*_FIGURES, _STEP))


def bare_run(names: tuple[str, ...], folders: pytest.TempPathFactory, repository: Path) -> Path:
    """Runs sections where some packages cannot be imported; returns the folder of their documents."""
    output, data, blocked = (folders.mktemp(name) for name in ("output", "data", "blocked"))
    for name in _BLOCKED:
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} is not on a bare machine')\n")
    environment = {**os.environ, "PYTHONPATH": f"{blocked}{os.pathsep}{repository}"}
    command = [sys.executable, "-c", _RUN, str(output), str(data), *names]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    return output


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    return bare_run(_VALUES, tmp_path_factory, repository)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    return bare_run(_FIGURES, tmp_path_factory, repository)


def require_passed(path: Path) -> Result:
    result = Result.load(path)
    assert result.status == PASSED, result.error or [check for check in result.checks if not check.held]
    return result


@pytest.mark.parametrize("name", _VALUES)
def test_sections_that_compare_values_run_on_a_bare_machine(name: str, values: Path) -> None:
    assert len(require_passed(values / f"{name}.json").checks) > 1


@pytest.mark.parametrize("name", _FIGURES)
def test_sections_that_measure_run_on_a_bare_machine(name: str, figures: Path) -> None:
    assert require_passed(figures / f"{name}.json").goals


def test_the_training_step_is_measured_on_a_bare_machine(
    tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> None:
    result = require_passed(bare_run((_STEP,), tmp_path_factory, repository) / f"{_STEP}.json")
    (waiting,) = [goal for goal in result.goals if goal.target]
    assert (waiting.target, waiting.at_most) == (0.01, True)
    assert [row["source"] for row in result.facts["rows"]] == ["stored", "encoders"]


def test_every_output_of_every_policy_is_compared(values: Path) -> None:
    outputs = {f"{clip}.{output}" for clip in ("clip_l", "clip_g") for output in ("hidden", "pooled", "eos")} | {
        "t5.hidden"
    }
    for name, cases in {"captions-narrow": 6, "captions": 2}.items():
        checks = [check.name for check in Result.load(values / f"{name}.json").checks]
        compared = [check for check in checks if check.endswith("relative error")]
        assert len(compared) == len(outputs) * cases
        assert {check.split(": ")[1].split(",")[0] for check in compared} == outputs
        assert sum("the same bytes" in check for check in checks) == cases


def test_the_figures_stand_beside_the_targets(figures: Path) -> None:
    result = Result.load(figures / "encoding.json")
    goals = {goal.name: goal for goal in result.goals}
    assert goals["whole worker over engine alone, `compact`"].target == 0.97
    assert "`sd3` beside diffusers at its best batch size, bfloat16" in goals
    assert {row["engine"] for row in result.facts["rows"]} == {"compact", "sd3", "diffusers", "diffusers, batch 1"}
    # In the benchmark's own form, so that its page can have it.
    assert len(rows_table(json.loads((figures / "encode-tiny.json").read_text()))) == 2 + len(result.facts["rows"])


def test_a_profile_has_a_table_and_a_trace(figures: Path) -> None:
    facts = Result.load(figures / "profile.json").facts
    assert set(facts) == {"sd3", "compact"}
    assert all(0 <= found["idle_share"] < 1 and found["launches_per_window"] > 10 for found in facts.values())
    assert all(sum(found["share_by_kind"].values()) == pytest.approx(1) for found in facts.values())
    # Attention is recognised, and products are.
    assert all({"attention", "products"} <= set(found["share_by_kind"]) for found in facts.values())
    trace = json.loads(gzip.decompress((figures / "profile-sd3.json.gz").read_bytes()))
    assert trace["traceEvents"]


def test_gaps_between_kernels_are_what_is_not_covered() -> None:
    assert busy_and_span([]) == (0.0, 0.0)
    assert busy_and_span([(5, 7), (0, 2), (1, 3), (1.5, 2)]) == (5, 7)


def section(target: str, folder: Path) -> Result:
    """A section's document, of a run in this process."""
    result = Result("section", folder / "section.json")
    for name in ("data", "output"):
        (folder / name).mkdir()
    threads = torch.get_num_threads()
    budget = TimeBudget(600.0)
    run(target, Context(SIZES["tiny"], "cpu", 1, budget, folder / "data", folder / "output", result, is_tiny=True))
    torch.set_num_threads(threads)
    return result


def broken(result: Result) -> set[str]:
    return {check.name for check in result.checks if not check.held}


def with_output(change: Callable[[EncoderOutput], EncoderOutput], monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes what the transfer is given: as a wrong kernel or a wrong copy would."""
    start = Transfer.start

    def changed(self: Transfer, output: EncoderOutput, *arguments: Any, **named: Any) -> Any:
        return start(self, change(output), *arguments, **named)

    monkeypatch.setattr(Transfer, "start", changed)


def test_a_transfer_that_swaps_two_tokens_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def swap(output: EncoderOutput) -> EncoderOutput:
        hidden = output.hidden.clone()
        hidden[[1, 2]] = hidden[[2, 1]]
        return EncoderOutput(hidden, output.pooled, output.eos)

    with_output(swap, monkeypatch)
    result = section("benchmarks.gpu.captions:real", tmp_path)
    assert result.status == FAILED
    wrong = {f"{name}.hidden, relative error" for name in ("clip_l", "clip_g", "t5")}
    assert {name.split(": ")[1] for name in broken(result)} == wrong
    assert {name.split(",")[0] for name in broken(result)} == {"compact", "sd3"}


def test_values_of_another_caption_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caption = EncodedBatch.caption

    def next_vectors(self: EncodedBatch, row: int, num_tokens: int, *, truncated: bool) -> CaptionTensors:
        found = caption(self, row, num_tokens, truncated=truncated)
        other = caption(self, (row + 1) % (len(self.starts) - 1), num_tokens, truncated=truncated)
        return CaptionTensors(
            found.num_tokens, found.truncated, found.stored_tokens, found.hidden, other.pooled, other.eos
        )

    monkeypatch.setattr(EncodedBatch, "caption", next_vectors)
    result = section("benchmarks.gpu.captions:real", tmp_path)
    assert result.status == FAILED
    wrong = {f"{name}.{output}, relative error" for name in ("clip_l", "clip_g") for output in ("pooled", "eos")}
    assert {name.split(": ")[1] for name in broken(result)} == wrong


def test_values_that_change_between_repetitions_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of one value, now and then: far below what a comparison with float32 sees."""
    calls = iter(range(10**6))

    def flip(output: EncoderOutput) -> EncoderOutput:
        hidden = output.hidden.clone()
        if next(calls) % 7 == 3:
            hidden.view(torch.int16)[0, 0] ^= 1
        return EncoderOutput(hidden, output.pooled, output.eos)

    with_output(flip, monkeypatch)
    result = section("benchmarks.gpu.captions:real", tmp_path)
    assert result.status == FAILED
    assert all(name.endswith("the same bytes") for name in broken(result))


def test_latents_of_another_image_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.latents.autoencoder import LatentEncoder

    encode = LatentEncoder.encode
    monkeypatch.setattr(LatentEncoder, "encode", lambda self, pixels: encode(self, pixels).roll(1, dims=0))
    result = section("benchmarks.gpu.latents:run", tmp_path)
    assert broken(result) == {"latents in float32: relative error", "latents in bfloat16: relative error"}


def test_an_upload_that_mixes_up_rows_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload, calls = Uploader.upload, iter(range(10**6))

    def once_wrong(self: Uploader, host: Any) -> Batch:
        batch = upload(self, host)
        if next(calls) == 5:
            batch.pooled_prompt_embeds[:] = batch.pooled_prompt_embeds.flip(0).clone()
        return batch

    monkeypatch.setattr(Uploader, "upload", once_wrong)
    result = section("benchmarks.gpu.upload:run", tmp_path)
    assert broken(result) == {"pooled_prompt_embeds of the stream, bit for bit"}
    assert np.count_nonzero([check.held for check in result.checks]) == 3

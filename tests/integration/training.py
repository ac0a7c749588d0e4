"""Small training runs as users start them: torchrun, processes of their own, loopback as their only network."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.datasets import make_manifest, samples, write_dataset
from tests.integration.commands import REPOSITORY, environment
from tests.latent_datasets import make_latent_manifest, pictures
from tests.loopback import loopback_command
from trainer.history import read_history
from trainer.train import ExitStatus

NUM_ROWS = 180
_SECONDS = 900
_OPTIONS = (
    "--model.depth", "2", "--model.num-heads", "2", "--model.head-dim", "8", "--stream.num-streams", "4",
    "--stream.holdout-rows", "8", "--metrics.log-every", "1", "--metrics.no-tensorboard", "--log-keys",
    "--optimizer.warmup-steps", "4", "--optimizer.schedule", "constant", "--device", "cpu",
    "--stream.read-attempts", "2",
)  # fmt: skip


def make_data(folder: Path) -> Path:
    """A dataset of three shards, pictures of several sizes; a caption and a picture of each shard are rejected."""
    latents = make_latent_manifest(kind="pixels")
    captions = {f"shard{i}": samples(NUM_ROWS // 3, missing=(1,), prefix=f"{i}-") for i in range(3)}
    images = {name: pictures(latents, [row.key for row in rows], missing=(3,)) for name, rows in captions.items()}
    write_dataset(str(folder), make_manifest(), {"txt": captions}, latents, images)
    return folder


def make_prompts(folder: Path) -> Path:
    """Two prompts and the empty one."""
    rows = [*samples(2), *[row.__class__("empty", "") for row in samples(1)]]
    write_dataset(str(folder), make_manifest(), {"txt": {"prompts": rows}})
    return folder


def start_training(data: Path, output: Path, *options: str, ranks: int = 2) -> subprocess.Popen[str]:
    """Starts `trainer train demo` with a tiny model; with several ranks under torchrun."""
    module = ["-m", "trainer"]
    if ranks > 1:
        module = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *module]
    arguments = ["train", "demo", "--data", str(data), "--output", str(output), *_OPTIONS, *options]
    return subprocess.Popen(
        loopback_command([sys.executable, *module, *arguments]),
        cwd=REPOSITORY,
        env=environment(GLOO_SOCKET_IFNAME="lo"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(data: Path, output: Path, *options: str, ranks: int = 2, expect: int = 0) -> str:
    """Trains to the end and returns what was printed, after checking the exit status."""
    with start_training(data, output, *options, ranks=ranks) as process:
        try:
            text, _ = process.communicate(timeout=_SECONDS)
        finally:
            kill(process)
    assert process.returncode == expect, f"exit status {process.returncode}\n{text}"
    return text


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL for a process and all it has started."""
    try:
        tree = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for one in tree:
        one.kill()
    process.kill()


def wait_for_step(process: subprocess.Popen[str], output: Path, step: int) -> None:
    """Returns once a run has done a step and has a complete checkpoint."""
    deadline = time.monotonic() + _SECONDS
    while True:
        lines = training_lines(output)
        if lines and lines[-1]["step"] >= step and list((output / "checkpoints").glob("step-????????")):
            break
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.01)


def kill_after(process: subprocess.Popen[str], output: Path, step: int) -> None:
    """Kills a run, then."""
    try:
        wait_for_step(process, output, step)
    finally:
        kill(process)
        process.communicate(timeout=_SECONDS)


def stop_after(process: subprocess.Popen[str], output: Path, step: int) -> str:
    """Asks a run to stop, then; returns what it printed, after checking that it says so."""
    try:
        wait_for_step(process, output, step)
        process.terminate()
        text, _ = process.communicate(timeout=_SECONDS)
    finally:
        kill(process)
    assert process.returncode == ExitStatus.STOPPED, f"exit status {process.returncode}\n{text}"
    return text


def training_lines(output: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that are of training steps."""
    return [line for line in read_history(output / "metrics.jsonl") if "loss" in line]


def consumed(output: Path) -> dict[int, str]:
    """By position, the keys that a run was trained on; none of them twice."""
    found: dict[int, str] = {}
    for path in (output / "keys").glob("rank-*.jsonl"):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            for position, key in zip(entry["positions"], entry["keys"], strict=True):
                assert position not in found
                found[position] = key
    return dict(sorted(found.items()))


def curve(lines: Sequence[dict[str, Any]]) -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm, as exactly as they were written."""
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines]

"""The driver is killed outright, again and again, at any moment; the same command ends with the same dataset."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

import schemas
from schemas.identity import ENCODER_NAMES
from tests.integration.commands import ENCODE_SECONDS, encode, files, run, start

# `python -m tests.chaos --kills 20` kills as many drivers as one likes, and workers beside them.
NUM_KILLS = int(os.environ.get("ENCODE_ONCE_KILLS", "8"))
NUM_SHARDS, SAMPLES = 12, 30
OPTIONS = ("--columns", "txt", "json.long_caption", "--latents", "pixels", "--chunk-rows", "8")
NUM_RECORDS = NUM_SHARDS * 3


@pytest.mark.timeout(3600)
def test_sigkill_at_random_moments(tmp_path: Path) -> None:
    tars, expected = tmp_path / "tars", tmp_path / "expected"
    run("demo-data", str(tars), "--num-shards", str(NUM_SHARDS), "--samples-per-shard", str(SAMPLES))
    encode(tars, expected, *OPTIONS)
    moments = random.Random(20261122)
    num_killed = num_datasets = 0
    while num_killed < NUM_KILLS:
        num_datasets += 1
        dataset = tmp_path / f"dataset{num_datasets}"
        killed, committed = kill_until_complete(tars, dataset, moments, NUM_KILLS - num_killed)
        num_killed += killed
        finish(tars, dataset, committed)
        assert_equal_values(expected, dataset)
        assert_nothing_left_over(dataset)
        run("validate", str(dataset), "--level", "values", module="schemas")
    print(f"{num_killed} kills, {num_datasets} datasets")


def kill_until_complete(
    tars: Path, dataset: Path, moments: random.Random, num_kills: int
) -> tuple[int, dict[str, bytes]]:
    """Kills runs of one dataset until one gets to its end; how many, and what the ledger was after the last."""
    committed: dict[str, bytes] = {}
    for number in range(num_kills):
        process = start_encode(tars, dataset)
        was_killed, output = kill_at_a_random_moment(process, dataset, moments)
        if not was_killed:
            assert process.returncode == 0, output
            return number, ledger(dataset)
        time.sleep(0.5)  # Workers end with their driver; a commit already on its way may still arrive.
        now = ledger(dataset)
        assert {name: now[name] for name in committed} == committed, "a committed record changed"
        committed = now
    return num_kills, committed


def finish(tars: Path, dataset: Path, committed: dict[str, bytes]) -> None:
    """The same command once more: it does what is left, and only that."""
    num_left = NUM_RECORDS - len(committed)
    output = encode(tars, dataset, *OPTIONS)
    assert f"({len(committed)} were before this run)" in output
    line = re.search(r"^this run.*", output, re.MULTILINE)
    found = re.findall(r"([\d,]+) (?:captions|images)\b", line.group().split(" in ")[0]) if line else []
    num_encoded = sum(int(number.replace(",", "")) for number in found)
    assert num_encoded == num_left * SAMPLES, "a committed shard was encoded again"
    assert ("Nothing to encode" in output) == (num_left == 0)
    now = ledger(dataset)
    assert {name: now[name] for name in committed} == committed
    assert len(now) == NUM_RECORDS


def start_encode(tars: Path, dataset: Path) -> subprocess.Popen[str]:
    # As on a GPU: one shard is written while the next is encoded.
    where = ("--input", str(tars), "--output", str(dataset), "--num-workers", "1", "--shards-per-worker", "2")
    return start("encode", "demo", *where, *OPTIONS)


def kill_at_a_random_moment(process: subprocess.Popen[str], dataset: Path, moments: random.Random) -> tuple[bool, str]:
    """Half of the moments anywhere in a run, half just after the dataset has changed, where more can be torn."""
    if moments.random() < 0.5:
        deadline = time.monotonic() + moments.uniform(0.2, 18.0)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    else:
        changes, before = moments.randint(1, 3), names(dataset)
        while process.poll() is None and changes:
            time.sleep(0.002)
            now = names(dataset)
            changes -= now != before
            before = now
        time.sleep(moments.uniform(0.0, 0.1))
    was_alive = process.poll() is None
    if was_alive:
        process.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=ENCODE_SECONDS)
    return was_alive, output


def names(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if path.is_file() and path.suffix != ".alive"}


def ledger(dataset: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(dataset / "ledger").items() if name.endswith(".json")}


def assert_equal_values(expected: Path, actual: Path) -> None:
    left, right = schemas.open_dataset(str(expected)), schemas.open_dataset(str(actual))
    assert left.groups == right.groups == ("json.long_caption", "latents", "txt")
    for one, other in zip(left.latent_rows(), right.latent_rows(), strict=True):
        assert (one.key, one.size, one.latents.tobytes()) == (other.key, other.size, other.latents.tobytes())
    for group in left.caption_groups:
        keys = [Counter(row.key for row in dataset.rows(group)) for dataset in (left, right)]
        assert keys[0] == keys[1]
        assert sum(keys[0].values()) == NUM_SHARDS * SAMPLES
        for one, other in zip(left.rows(group), right.rows(group), strict=True):
            assert (one.key, one.caption) == (other.key, other.caption)
            for name in ENCODER_NAMES:
                assert one[name].hidden.tobytes() == other[name].hidden.tobytes()
                assert one[name].num_tokens == other[name].num_tokens
                if name != "t5":
                    assert one[name].pooled.tobytes() == other[name].pooled.tobytes()
                    assert one[name].eos.tobytes() == other[name].eos.tobytes()


def assert_nothing_left_over(dataset: Path) -> None:
    ds = schemas.open_dataset(str(dataset), source="ledger")
    kept = {"manifest.json", "manifest.latents.json", "index.arrow"}
    for group in ds.groups:
        for shard in ds.shards(group):
            kept.add(f"ledger/{group}/{shard}.json")
            kept |= {f"shards/{shard}/{part.name}" for part in ds.record(group, shard).parts}
    left = {name for name in files(dataset) if name not in kept}
    assert {name for name in left if not re.fullmatch(r"runs/[^/]+\.json", name)} == set()

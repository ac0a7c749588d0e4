"""`python -m pipeline encode` as users run it, with Ray: resume, identity, faults, stopping."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

import schemas
from pipeline.compute_dtype import has_bfloat16_instructions
from tests.integration.commands import ENCODE_SECONDS, REPOSITORY, encode, files, run, start

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "tars"
    run("demo-data", str(folder), "--num-shards", "3", "--samples-per-shard", "20")
    return folder


@pytest.mark.processor
def test_a_dataset_grows_resumes_and_refuses(tars: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    options = ("--container", "webdataset", "--padding", "none", "--chunk-rows", "8")
    output = encode(tars, dataset, *options)
    assert "60 inputs = 60 encoded + 0 rejected" in output
    computed = schemas.open_dataset(str(dataset)).manifest.captions.clip_l.compute_dtype
    assert computed == ("bfloat16" if has_bfloat16_instructions() else "float32")
    assert f"compute dtype {computed} (this processor has " in output
    run("validate", str(dataset), "--level", "values", module="schemas")
    before = stable(dataset)

    assert "Nothing to encode" in encode(tars, dataset, *options)
    assert stable(dataset) == before

    other = "float32" if computed == "bfloat16" else "bfloat16"
    refused = encode(tars, dataset, *options, "--compute-dtype", other, "--t5.max-tokens", "64", expect=1)
    assert "identity-mismatch" in refused
    for field in (f"clip_l.compute_dtype: '{computed}' -> '{other}'", "t5.max_tokens: 24 -> 64"):
        assert f"captions.{field}" in refused
    assert stable(dataset) == before

    plan = encode(tars, dataset, *options, "--columns", "txt", "json.long_caption", "--dry-run")
    assert "3 of 6 shards x columns" in plan
    assert "3 in 3 tars" in plan
    assert stable(dataset) == before

    encode(tars, dataset, *options, "--columns", "txt", "json.long_caption")
    ds = schemas.open_dataset(str(dataset))
    assert ds.groups == ("json.long_caption", "txt")
    assert [row.key for row in ds.rows("txt")] == [row.key for row in ds.rows("json.long_caption")]
    assert {name: data for name, data in stable(dataset).items() if name in before} == before
    run("validate", str(dataset), "--level", "values", module="schemas")


def stable(dataset: Path) -> dict[str, bytes]:
    """All but what a run may rewrite: the index, and what it was asked to do."""
    return {n: data for n, data in files(dataset).items() if not n.startswith("runs/") and n != "index.arrow"}


POISONS = {
    "00001-kills": "worker process died",
    "00002-raises": "RuntimeError: cannot encode 00002-raises, attempt",
    "00003-hangs": "hung: no result within 20 s",
}


def test_poisonous_inputs_are_quarantined_and_the_rest_is_done(tars: Path, tmp_path: Path) -> None:
    """One that always kills its worker, one that always raises, one that hangs."""
    inputs, dataset = tmp_path / "tars", tmp_path / "dataset"
    inputs.mkdir()
    for number, name in enumerate(("00000", *POISONS, "00004")):
        shutil.copy(tars / f"{number % 3:05d}.tar", inputs / f"{name}.tar")
    faulty = {"PYTHONPATH": f"{REPOSITORY / 'tests/integration/faults'}:{REPOSITORY}"}
    limits = ("--max-attempts", "2", "--shard-timeout-seconds", "20")
    output = encode(inputs, dataset, *limits, expect=3, **faulty)
    assert "2 of 5 committed" in output
    assert schemas.open_dataset(str(dataset)).shards("txt") == ("00000", "00004")
    notes = {name: json.loads(data) for name, data in files(dataset / "quarantine").items()}
    assert set(notes) == {f"txt/{name}.json" for name in POISONS}
    for name, reason in POISONS.items():
        note = notes[f"txt/{name}.json"]
        assert note["attempts"] == len(note["reasons"]) == 2
        assert all(found.startswith(reason) for found in note["reasons"])

    again = encode(inputs, dataset, expect=3)
    assert "Nothing to encode" in again
    assert "3 shards are quarantined" in again

    encode(inputs, dataset, "--retry-quarantined")
    assert schemas.open_dataset(str(dataset)).num_rows("txt") == 100
    assert files(dataset / "quarantine") == {}
    run("validate", str(dataset), "--level", "values", module="schemas")


def test_sigterm_stops_in_order_and_a_second_driver_is_refused(tars: Path, tmp_path: Path) -> None:
    inputs, dataset = tmp_path / "tars", tmp_path / "dataset"
    inputs.mkdir()
    for number in range(12):
        shutil.copy(tars / f"{number % 3:05d}.tar", inputs / f"{number:05d}.tar")
    where = ("--input", str(inputs), "--output", str(dataset), "--num-workers", "1")
    with start("encode", "demo", *where) as first:
        while not list((dataset / "ledger").rglob("*.json")):
            assert first.poll() is None, first.communicate()[0]
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)  # It lives, whatever the time the second one takes.
        refused = encode(inputs, dataset, expect=1)
        first.send_signal(signal.SIGCONT)
        first.send_signal(signal.SIGTERM)
        output, _ = first.communicate(timeout=ENCODE_SECONDS)
    assert "run-live" in refused
    assert first.returncode == 4, output
    assert "The same command resumes" in output
    done = len(schemas.open_dataset(str(dataset)).shards("txt"))
    assert 1 <= done < 12
    assert not [name for name in files(dataset) if name.endswith(".alive")]
    assert f"({done} were before this run)" in encode(inputs, dataset)
    assert len(schemas.open_dataset(str(dataset)).shards("txt")) == 12


def test_tars_from_hell_through_the_whole_job(tmp_path: Path) -> None:
    """Damaged tars are encoded as far as they go, the counts add up, and the exit status tells."""
    inputs, dataset = tmp_path / "tars", tmp_path / "dataset"
    shutil.copytree(REPOSITORY / "tests/golden/tars", inputs, ignore=shutil.ignore_patterns("*.json", "*.py"))
    output = encode(inputs, dataset, "--padding", "none", "--columns", "txt", "caption", "json.caption", expect=3)
    assert "tars could not be read whole" in output
    ds = schemas.open_dataset(str(dataset))
    assert len(ds.shards("txt")) == len(list(inputs.rglob("*.tar")))
    for group in ds.groups:
        for shard in ds.shards(group):
            record = ds.record(group, shard)
            assert record.num_inputs == record.num_encoded + record.num_rejects
            assert len(list(ds.rows(group, shard))) == record.num_rows
    run("validate", str(dataset), "--level", "values", module="schemas")

"""What is left to do, and what a run leaves behind."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import schemas
from pipeline.encode import run
from pipeline.job.dry_run import caption_cost, image_cost
from pipeline.job.estimate import RowCost, estimate
from pipeline.job.finalize import finalize
from pipeline.job.plan import make_plan
from pipeline.presets import PRESETS
from pipeline.sources import Inputs, list_inputs
from schemas.ledger import record_path
from schemas.manifest import Manifest
from schemas.quarantine import Quarantined, read_quarantined, write_quarantined
from schemas.storage import Store
from tests.datasets import make_manifest, samples, write_dataset, write_shard
from tests.pipeline.encoding import write_tar


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    for shard in ("a", "b/c", "d"):
        write_tar(tmp_path / "tars" / f"{shard}.tar", [(f"{i}.txt", b"a caption") for i in range(5)])
    return list_inputs(str(tmp_path / "tars"))


@pytest.fixture
def manifest() -> Manifest:
    return make_manifest()


@pytest.fixture
def dataset(tmp_path: Path, manifest: Manifest) -> Store:
    return write_dataset(
        str(tmp_path / "dataset"),
        manifest,
        {"txt": {"a": samples(5), "gone": samples(5)}, "json.x": {"b/c": samples(5)}},
    )


def note(inputs: Inputs, group: str, shard: str, num_bytes: int | None = None) -> Quarantined:
    tar = next(tar for tar in inputs.tars if tar.shard == shard)
    return Quarantined(
        group=group,
        shard=shard,
        source_url=inputs.store.locate(tar.path),
        source_bytes=tar.num_bytes if num_bytes is None else num_bytes,
        source_e_tag=tar.e_tag,
        attempts=3,
        reasons=("one", "two", "three"),
        run_id="test",
        time="2026-01-01T00:00:00+00:00",
    )


def test_only_what_is_missing_is_planned(inputs: Inputs, dataset: Store) -> None:
    plan = make_plan(inputs, dataset, ["txt", "json.x"], retry_quarantined=False)
    assert {shard: unit.groups for shard, unit in plan.todo.items()} == {
        "a": ("json.x",),
        "b/c": ("txt",),
        "d": ("txt", "json.x"),
    }
    assert (plan.num_shards, plan.num_committed, plan.num_todo) == (3, 2, 4)
    assert plan.not_in_input == ("gone",)


def test_quarantined_shards_are_left_alone_until_told_or_changed(inputs: Inputs, dataset: Store) -> None:
    write_quarantined(dataset, note(inputs, "txt", "d"))
    write_quarantined(dataset, note(inputs, "txt", "b/c", num_bytes=1))
    plan = make_plan(inputs, dataset, ["txt"], retry_quarantined=False)
    assert list(plan.todo) == ["b/c"], "its tar is another one now"
    assert [entry.shard for entry in plan.quarantined] == ["d"]
    assert list(make_plan(inputs, dataset, ["txt"], retry_quarantined=True).todo) == ["b/c", "d"]


def test_estimates_come_from_the_dataset_or_from_a_tar(inputs: Inputs, dataset: Store, tmp_path: Path) -> None:
    costs = {"txt": RowCost(stored_bytes=680, seconds=0.5)}
    plan = make_plan(inputs, dataset, ["txt"], retry_quarantined=False)
    found = estimate(plan, inputs, dataset, costs)
    assert "2 committed shards" in found.basis
    record = schemas.open_dataset(dataset.url).record("txt", "a")
    assert found.stored_bytes == pytest.approx(found.num_captions * record.num_bytes / 5, rel=0.05)

    nothing = Store(str(tmp_path / "nothing"))
    plan = make_plan(inputs, nothing, ["txt"], retry_quarantined=False)
    found = estimate(plan, inputs, nothing, costs)
    assert found.num_captions == 15
    assert found.stored_bytes == 15 * 680
    assert found.worker_hours * 3600 == pytest.approx(7.5)


def test_each_group_is_estimated_from_its_own_shards(inputs: Inputs, dataset: Store) -> None:
    """Captions that are there say nothing about images that are not."""
    plan = make_plan(inputs, dataset, ["txt", "latents"], retry_quarantined=False)
    record = schemas.open_dataset(dataset.url).record("txt", "a")
    found = estimate(plan, inputs, dataset, {"latents": RowCost(stored_bytes=10**6, seconds=3600)})
    assert found.num_images == 15
    assert found.worker_hours == pytest.approx(15, rel=0.01)
    assert found.stored_bytes == pytest.approx(15 * 10**6 + found.num_captions * record.num_bytes / 5, rel=0.01)
    assert "committed shards" in found.basis
    assert "samples in a.tar" in found.basis


def test_a_dry_run_tells_what_the_real_models_cost(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(PRESETS["sd3"][1], input=inputs.store.url, output=str(tmp_path / "new"), dry_run=True)
    # 0.827 TFLOP a caption at half of 790 TFLOP/s.
    assert caption_cost(config).seconds == pytest.approx(0.827 / 395, rel=0.01)
    run(config)
    assert re.search(r"captions +about 15\n.*bytes +about 9.7 MB\n", capsys.readouterr().out, re.DOTALL)
    config = dataclasses.replace(config, columns=(), latents="autoencoder_kl")
    # 1.13 TFLOP an image, by default in bfloat16.
    assert image_cost(config).seconds == pytest.approx(1.13 / 395, rel=0.01)
    run(dataclasses.replace(config, vae=dataclasses.replace(config.vae, compute_dtype="float32")))
    out = capsys.readouterr().out
    # 15 images of 16 x 64 x 64 bfloat16; in float32 at half of 60 TFLOP/s.
    assert re.search(r"images +about 15\n.*bytes +about 2.0 MB\n.*time +about 0.6 seconds", out, re.DOTALL)
    assert "captions" not in out.split("estimated from")[0]
    assert not (tmp_path / "new").exists()


def test_finalize_collects_what_no_record_refers_to(inputs: Inputs, dataset: Store, manifest: Manifest) -> None:
    before = {info.path for info in dataset.list()}
    orphans = {
        "shards/a/txt-00009-0123456789abcdef.arrow",
        "shards/never/txt-00000-0123456789abcdef.arrow",
        "rejects/txt/a.jsonl",
        "ledger/txt/a.json.tmp-0123456789abcdef0123456789abcdef",
        "runs/dead.alive",
    }
    for path in orphans:
        dataset.create(path, b"left over")
    write_quarantined(dataset, note(inputs, "txt", "a"))
    write_quarantined(dataset, note(inputs, "txt", "d"))
    totals = finalize(dataset, ["txt"], ["runs/dead.alive"], collect_orphans=False)
    assert totals.orphans == ()
    assert {info.path for info in dataset.list()} >= orphans - {"runs/dead.alive"}
    totals = finalize(dataset, ["txt"], (), collect_orphans=True)
    assert set(totals.orphans) == (orphans - {"runs/dead.alive"}) | {"quarantine/txt/a.json"}
    assert {info.path for info in dataset.list()} == before | {"quarantine/txt/d.json"}
    assert list(read_quarantined(dataset)) == [("txt", "d")]
    assert (totals.num_records, totals.num_inputs, totals.num_encoded) == (2, 10, 10)


def test_finalize_leaves_alone_what_no_run_has_written(
    dataset: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A folder taken for a dataset by mistake, and what links lead to: another dataset, say."""
    other = tmp_path_factory.mktemp("other")
    precious = [other / "txt-00000-0123456789abcdef.arrow", other / "x.jsonl", other / f"x.tmp-{'0' * 32}"]
    for path in precious:
        path.write_bytes(b"of somebody else")
    assert dataset.local_root is not None
    for folder in ("shards", "rejects"):
        (dataset.local_root / folder / "linked").parent.mkdir(exist_ok=True)
        (dataset.local_root / folder / "linked").symlink_to(other)
    dataset.create("shards/holiday/beach.jpg", b"a picture")
    totals = finalize(dataset, ["txt"], (), collect_orphans=True)
    assert totals.orphans == ()
    assert all(path.read_bytes() == b"of somebody else" for path in precious)
    assert dataset.get("shards/holiday/beach.jpg") == b"a picture"


def test_finalize_writes_the_index_anew(dataset: Store, manifest: Manifest) -> None:
    write_shard(dataset, manifest, "txt", "later", samples(3))
    assert schemas.open_dataset(dataset.url).num_rows("txt") == 10
    assert schemas.open_dataset(dataset.url, source="ledger").num_rows("txt") == 13
    finalize(dataset, ["txt"], (), collect_orphans=True)
    assert schemas.open_dataset(dataset.url).num_rows("txt") == 13


def test_a_driver_that_was_suspended_leaves_no_index_of_long_ago(
    dataset: Store, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at the ledger and its index another run commits a shard, and ends."""
    replace = Store.replace

    def replace_late(store: Store, path: str, data: bytes) -> None:
        monkeypatch.setattr(Store, "replace", replace)
        write_shard(dataset, manifest, "txt", "later", samples(3))
        finalize(dataset, ["txt"], (), collect_orphans=True)
        replace(store, path, data)

    monkeypatch.setattr(Store, "replace", replace_late)
    totals = finalize(dataset, ["txt"], (), collect_orphans=True)
    assert schemas.open_dataset(dataset.url).num_rows("txt") == 13
    assert totals.num_encoded == 13


def test_finalize_deletes_nothing_when_a_record_is_damaged(dataset: Store, manifest: Manifest) -> None:
    """A damaged record refers to nothing that could be read: its parts would look like orphans."""
    path = record_path("txt", "a")
    dataset.replace(path, dataset.get(path).replace(b"text", b"next", 1)[:-3])
    before = {info.path for info in dataset.list()}
    with pytest.raises(schemas.DamagedDataError, match="document-damaged"):
        finalize(dataset, ["txt"], (), collect_orphans=True)
    assert {info.path for info in dataset.list()} == before


@pytest.mark.parametrize("columns", [(), ("txt", "txt"), ("TXT",), ("json.",), ("a/b",), ("../x",), ("latents",)])
def test_a_wrong_column_is_refused_before_anything_is_made(inputs: Inputs, tmp_path: Path, columns: tuple) -> None:
    config = dataclasses.replace(
        PRESETS["demo"][1], input=inputs.store.url, output=str(tmp_path / "new"), columns=columns
    )
    with pytest.raises(schemas.ConfigError, match="column-invalid"):
        run(config)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("field", ["chunk_rows", "part_bytes", "num_workers", "max_attempts", "gpus_per_worker"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_number_without_meaning_is_refused(inputs: Inputs, tmp_path: Path, field: str, value: int) -> None:
    config = dataclasses.replace(PRESETS["demo"][1], input=inputs.store.url, output=str(tmp_path / "new"))
    with pytest.raises(schemas.ConfigError, match="option-out-of-range"):
        run(dataclasses.replace(config, **{field: value}))
    assert not (tmp_path / "new").exists()

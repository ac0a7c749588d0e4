"""The benchmark of many shards measures what it says, on a few."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import schemas
from benchmarks.scale.__main__ import table
from benchmarks.scale.datasets import copy_manifests, link_half, make_inputs, make_ledger, only_record, renamed
from pipeline.job.finalize import finalize
from schemas.index import iter_ledger, records_from_ledger
from schemas.ledger import load_record
from schemas.storage import Store
from tests.datasets import make_manifest, samples, write_dataset

COUNT = 40


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of one shard of three chunks."""
    folder = tmp_path_factory.mktemp("one")
    write_dataset(str(folder), make_manifest(), {"txt": {"s": samples(11)}})
    return folder


def task(name: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale.tasks", name, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=200)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_records_are_sound_and_their_digests_differ(one: Path) -> None:
    record = only_record(one)
    first, second = (load_record(renamed(record, shard), where="x") for shard in ("a", "b"))
    assert (first.shard, second.shard) == ("a", "b")
    assert first.num_rows == second.num_rows == 11
    assert first.keys_sha256 != second.keys_sha256
    for (_, left), (_, right) in zip(first.chunks(), second.chunks(), strict=True):
        assert left.num_rows == right.num_rows
        assert left.xxh3_64 != right.xxh3_64


def test_what_is_planned_indexed_and_opened_is_all_there(one: Path, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    make_inputs(tmp_path / "tars", COUNT)
    make_ledger(one, whole, COUNT)
    link_half(whole, half, COUNT)
    assert sum(1 for _ in records_from_ledger(Store(str(whole)))) == COUNT
    assert task("plan", tmp_path / "tars", half)["count"] == COUNT // 2
    assert task("plan", tmp_path / "tars", tmp_path / "nothing")["count"] == COUNT
    indexed = task("index", whole)
    assert indexed["count"] == COUNT
    assert indexed["index_bytes"] == (whole / "index.arrow").stat().st_size
    opened = task("open", whole)
    assert opened["count"] == 11 * COUNT
    assert 1500 > opened["peak_mb"] >= opened["imports_mb"] > 50


def test_the_driver_alone_goes_through_all_shards() -> None:
    figures = task("driver", 300)
    assert figures["ms_per_shard"] == pytest.approx(1e3 * figures["seconds"] / 300)


def test_the_loop_commits_every_shard(one: Path, tmp_path: Path) -> None:
    copy_manifests(one, tmp_path / "by-loop")
    looped = task("loop", one, tmp_path / "by-loop", COUNT)
    assert looped["ms_per_shard"] == pytest.approx(1e3 * looped["seconds"] / COUNT)
    assert schemas.open_dataset(str(tmp_path / "by-loop"), source="ledger").num_rows("txt") == 11 * COUNT


def test_figures_become_a_table() -> None:
    rows = [{"shards": 1000, "plan": {"seconds": 0.5, "peak_mb": 90.0}, "loop": {"ms_per_shard": 1.5, "seconds": 2.0}}]
    assert table(rows).splitlines() == [
        "| | 1,000 shards |",
        "|---|---|",
        "| plan | 0.50 s, 90 MB |",
        "| loop | 1.50 ms a shard |",
    ]


def test_finalizing_holds_no_more_than_a_few_records(one: Path, tmp_path: Path) -> None:
    """Of 100,000 records, parsed, the fields would take gigabytes."""
    count, dataset = 2000, tmp_path / "dataset"
    make_ledger(one, dataset, count)
    store = Store(str(dataset))
    some = list(itertools.islice(iter_ledger(store), 100))
    tracemalloc.start()
    try:
        parsed = [json.loads(data) for _, data in some]
        all_at_once = tracemalloc.get_traced_memory()[0] / len(parsed) * count
        del parsed
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        assert finalize(store, ["txt"], [], collect_orphans=True).num_records == count
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < all_at_once / 3

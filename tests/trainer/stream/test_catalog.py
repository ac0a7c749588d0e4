"""What of a dataset is in the stream: complete shards, aligned groups, rows held out, all of it in the fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from schemas.dataset import Dataset
from schemas.errors import ConfigError, ContractError
from schemas.index import write_index
from schemas.ledger import record_path
from schemas.storage import Store
from tests.datasets import (
    Sample,
    make_latent_manifest,
    make_manifest,
    samples,
    write_dataset,
)
from tests.latent_datasets import pictures
from trainer.stream.catalog import Catalog

SIZES = {"a": 9, "b/c": 4, "d": 21}
Chunks = list[tuple[str, int]]


def shards(sizes: dict[str, int] = SIZES) -> dict[str, list[Sample]]:
    return {name: samples(size, prefix=f"{name}-") for name, size in sizes.items()}


def written(folder: Path, groups: dict[str, dict[str, list[Sample]]], **options: Any) -> Dataset:
    write_dataset(str(folder), make_manifest(), groups, **options)
    return schemas.open_dataset(str(folder))


def chunks(catalog: Catalog) -> Chunks:
    refs = [catalog.refs(chunk, 0)[0] for chunk in range(len(catalog.rows_per_chunk))]
    return [(ref.shard, ref.index) for ref in refs]


def recut(store: Store, group: str, shard: str) -> None:
    """Has the record of a shard of 9 rows state chunks of 3, 5 and 1 instead of 4, 4 and 1."""
    record = schemas.open_dataset(store.url).record(group, shard)
    entries = [
        entry.model_copy(update={"num_rows": rows}) for (_, entry), rows in zip(record.chunks(), (3, 5, 1), strict=True)
    ]
    part = record.parts[0].model_copy(update={"chunks": tuple(entries)})
    store.replace(record_path(group, shard), record.model_copy(update={"parts": (part,)}).dump())
    write_index(store, make_manifest().identity_sha256)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    groups = {"txt": shards(), "json.long": shards()}
    return written(tmp_path_factory.mktemp("whole"), groups, latents=make_latent_manifest())


def test_chunks_are_those_of_the_ledger(whole: Dataset) -> None:
    catalog = Catalog(whole, ["txt", "json.long"], latents=True)
    assert catalog.rows_per_chunk.tolist() == [4, 4, 1, 4, 4, 4, 4, 4, 4, 1]
    assert catalog.num_rows == sum(SIZES.values())
    for chunk, rows in enumerate(catalog.rows_per_chunk.tolist()):
        for field, group in enumerate(["txt", "json.long"]):
            captions, images = catalog.refs(chunk, field)
            assert (captions.group, images.group) == (group, "latents")
            assert (captions.shard, captions.index) == (images.shard, images.index)
            for ref in (captions, images):
                recorded = list(whole.record(ref.group, ref.shard).chunks())[ref.index]
                assert (ref.part, ref.chunk) == recorded
                assert ref.chunk.num_rows == rows
        sizes = [catalog.refs(chunk, field)[0].chunk.num_bytes for field in (0, 1)]
        assert catalog.num_bytes[chunk] == max(sizes) + catalog.refs(chunk, 0)[1].chunk.num_bytes
    assert len({ref.part.name for chunk in range(10) for ref in catalog.refs(chunk, 0)}) > 6


def test_the_ledger_serves_as_well_as_the_index(whole: Dataset) -> None:
    index, ledger = (Catalog(schemas.open_dataset(whole.store.url, of), ["txt"], latents=True) for of in SOURCES)
    assert index.fingerprint == ledger.fingerprint
    assert chunks(index) == chunks(ledger)


SOURCES: Sequence[Any] = ("index", "ledger")


def test_looking_chunks_up_keeps_no_records(whole: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of a hundred chunks takes 65 kB and 0.7 ms to parse, and a stream looks into a hundred thousand."""
    monkeypatch.setattr(Dataset, "record", None)
    assert len(chunks(Catalog(schemas.open_dataset(whole.store.url), ["txt"], latents=True))) == 10


@given(st.integers(0, 40), st.integers(0, 5))
def test_held_out_chunks_are_no_training_chunks(whole: Dataset, holdout_rows: int, seed: int) -> None:
    options: dict[str, Any] = {"latents": False, "holdout_rows": holdout_rows, "seed": seed}
    every = chunks(Catalog(whole, ["txt"], latents=False))
    trained: Chunks = []
    held: Chunks = []
    # Chunks have at most 4 rows, so that up to 3 more than asked for are held out.
    if holdout_rows < 31:
        trained = chunks(Catalog(whole, ["txt"], **options))
    if holdout_rows:
        apart = Catalog(whole, ["txt"], holdout=True, **options)
        held = chunks(apart)
        assert min(holdout_rows, 34) <= apart.num_rows < holdout_rows + 4
    if trained and held:
        assert sorted(trained + held) == sorted(every)
    assert not holdout_rows or holdout_rows > 5 or len(held) <= 5


def test_what_is_held_out_is_a_matter_of_names_alone(tmp_path: Path, whole: Dataset) -> None:
    """So a shard that is added moves no other chunk from one side to the other, but for those it replaces."""
    # It comes before all others by name.
    more = written(tmp_path, {"txt": shards({**SIZES, "0": 4})})
    chosen = []
    for seed in range(5):
        before, after = (
            chunks(Catalog(dataset, ["txt"], latents=False, holdout_rows=16, holdout=True, seed=seed))
            for dataset in (whole, more)
        )
        assert {name for name in after if name[0] != "0"} <= set(before)
        chosen.append(tuple(before))
    assert len(set(chosen)) > 1


def test_a_shard_that_lacks_a_group_is_refused_or_left_out(tmp_path: Path) -> None:
    some = {name: rows for name, rows in shards().items() if name != "d"}
    images = {name: pictures(make_latent_manifest(), [row.key for row in rows]) for name, rows in shards().items()}
    del images["a"]
    dataset = written(tmp_path, {"txt": shards(), "long": some}, latents=make_latent_manifest(), images=images)
    with pytest.raises(ContractError, match="shards-incomplete") as error:
        Catalog(dataset, ["txt", "long"], latents=True)
    assert "1 lack 'long', 1 lack 'latents' (such as a, d)" in str(error.value)
    catalog = Catalog(dataset, ["txt", "long"], latents=True, allow_incomplete=True)
    assert catalog.shards == ("b/c",)
    assert catalog.num_left_out == 2
    # A group that is not asked for is not missed.
    assert Catalog(dataset, ["txt"], latents=False).num_left_out == 0


def test_groups_of_other_keys_are_refused(tmp_path: Path) -> None:
    strangers = {**shards(), "d": samples(21, prefix="x-")}
    dataset = written(tmp_path, {"txt": shards(), "long": strangers})
    with pytest.raises(ContractError, match="groups-misaligned") as error:
        Catalog(dataset, ["txt", "long"], latents=False)
    assert "ledger/long/d.json" in str(error.value)
    assert "other keys" in str(error.value)


def test_groups_of_other_chunks_are_refused(tmp_path: Path) -> None:
    groups = {"txt": shards({"a": 9}), "long": shards({"a": 9})}
    recut(write_dataset(str(tmp_path), make_manifest(), groups), "long", "a")
    with pytest.raises(ContractError, match="groups-misaligned") as error:
        Catalog(schemas.open_dataset(str(tmp_path)), ["txt", "long"], latents=False)
    assert "other chunks" in str(error.value)


def test_nothing_left_to_stream_is_an_error(whole: Dataset) -> None:
    with pytest.raises(ConfigError, match="stream-empty"):
        Catalog(whole, ["txt"], latents=False, holdout_rows=34)
    with pytest.raises(ConfigError, match="stream-empty"):
        Catalog(whole, ["txt"], latents=False, holdout=True)
    with pytest.raises(ContractError, match="not-committed"):
        Catalog(whole, ["nothing"], latents=False)


def test_the_fingerprint_tells_apart_whatever_gives_other_samples(tmp_path: Path, whole: Dataset) -> None:
    def fingerprint(dataset: Dataset = whole, captions: Sequence[str] = ("txt",), **options: Any) -> str:
        return Catalog(dataset, captions, **({"latents": False} | options)).fingerprint

    same = written(tmp_path / "same", {"txt": shards()})
    assert fingerprint(same) == fingerprint()
    longer = written(tmp_path / "longer", {"txt": shards({**SIZES, "e": 1})})
    renamed = written(tmp_path / "renamed", {"txt": {"a": shards()["a"], "b": shards()["b/c"], "d": shards()["d"]}})
    strangers = written(tmp_path / "strangers", {"txt": {**shards(), "a": samples(9)}})
    write_dataset(str(tmp_path / "other"), make_manifest(padding="none"), {"txt": shards()})
    recut(write_dataset(str(tmp_path / "cut"), make_manifest(), {"txt": shards()}), "txt", "a")
    found = [
        fingerprint(),
        fingerprint(latents=True),
        fingerprint(captions=("txt", "json.long")),
        fingerprint(captions=("json.long", "txt")),
        fingerprint(holdout_rows=4),
        fingerprint(holdout_rows=4, holdout=True),
        fingerprint(holdout_rows=4, seed=1),
        *map(fingerprint, [longer, renamed, strangers]),
        fingerprint(schemas.open_dataset(str(tmp_path / "other"))),
        fingerprint(schemas.open_dataset(str(tmp_path / "cut"))),
    ]
    assert len(set(found)) == len(found)


def test_sizes_are_arrays(whole: Dataset) -> None:
    catalog = Catalog(whole, ["txt"], latents=False)
    assert catalog.rows_per_chunk.dtype == catalog.num_bytes.dtype == np.int64

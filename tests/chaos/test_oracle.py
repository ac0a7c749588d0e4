"""The oracle finds what it is there for: each way in which a job could have gone wrong, done by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.index import write_index
from schemas.manifest import load_manifest
from schemas.quarantine import Quarantined, write_quarantined
from schemas.storage import Store
from tests.chaos.oracle import Poison, require_same
from tests.chaos.runner import ChaosFailure
from tests.datasets import make_latent_manifest, make_manifest, samples, write_dataset, write_shard

SHARDS = {"a": 9, "b": 5}
POISON = Poison("p", "worker process died")


def write(folder: Path, *, changed: str | None = None) -> Path:
    """A dataset; `changed` names a shard whose first caption, and so its values, are others."""
    groups = {}
    for group in ("txt", "json.long_caption"):
        rows = {name: samples(size, prefix=f"{name}-") for name, size in SHARDS.items()}
        if changed is not None and group == "txt":
            first = rows[changed][0]
            rows[changed][0] = type(first)(first.key, "other words")
        groups[group] = rows
    write_dataset(str(folder), make_manifest(), groups, make_latent_manifest())
    return folder


def quarantine(folder: Path, shard: str, reasons: tuple[str, ...]) -> None:
    for group in ("txt", "json.long_caption", "latents"):
        note = Quarantined(
            group=group,
            shard=shard,
            source_url=f"memory/{shard}.tar",
            source_bytes=1,
            source_e_tag=None,
            attempts=len(reasons),
            reasons=reasons,
            run_id="test",
            time="2026-01-01T00:00:00+00:00",
        )
        write_quarantined(Store(str(folder)), note)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("expected") / "dataset")


def compare(expected: Path, actual: Path, *poisons: Poison) -> None:
    require_same(expected, actual, poisons, 2, actual.parent / "scratch")


def test_equal_datasets_are_equal(expected: Path, tmp_path: Path) -> None:
    actual = Path(shutil.copytree(expected, tmp_path / "dataset"))
    quarantine(actual, "p", (POISON.reason, POISON.reason))
    compare(expected, actual, POISON)


def lose_a_shard(folder: Path) -> None:
    for record in folder.glob("ledger/*/b.json"):
        record.unlink()
    shutil.rmtree(folder / "shards" / "b")
    (folder / "index.arrow").unlink()
    reindex(folder)


def add_a_shard(folder: Path) -> None:
    store = Store(str(folder))
    manifest = load_manifest(store.get("manifest.json"), where="manifest.json")
    write_shard(store, manifest, "txt", "twice", samples(5, prefix="b-"))
    reindex(folder)


def reindex(folder: Path) -> None:
    write_index(Store(str(folder)), make_manifest().identity_sha256, make_latent_manifest().identity_sha256)


def leave_a_part(folder: Path) -> None:
    (folder / "shards/a/txt-00009-0123456789abcdef.arrow").write_bytes(b"of a dead attempt")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lose_a_shard, "each shard once"),
        (add_a_shard, "validator|each shard once"),
        (leave_a_part, "no object of a dead attempt|validator"),
        (lambda folder: quarantine(folder, "a", ("x", "x")), "in quarantine|validator"),
        (lambda folder: (folder / "index.arrow").unlink(), "an index|validator"),
    ],
)
def test_what_went_wrong_is_found(expected: Path, tmp_path: Path, damage: Callable[[Path], object], named: str) -> None:
    actual = Path(shutil.copytree(expected, tmp_path / "dataset"))
    damage(actual)
    with pytest.raises(ChaosFailure, match=named):
        compare(expected, actual)


def test_another_value_is_found(expected: Path, tmp_path: Path) -> None:
    with pytest.raises(ChaosFailure, match="bit for bit"):
        compare(expected, write(tmp_path / "dataset", changed="b"))


@pytest.mark.parametrize("reasons", [("worker process died",), ("hung", "hung")])
def test_a_quarantine_too_early_or_for_another_reason_is_found(
    expected: Path, tmp_path: Path, reasons: tuple[str, ...]
) -> None:
    actual = Path(shutil.copytree(expected, tmp_path / "dataset"))
    quarantine(actual, "p", reasons)
    with pytest.raises(ChaosFailure, match=r"attempts|the reason"):
        compare(expected, actual, POISON)

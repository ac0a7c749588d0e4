"""The oracle finds what it is there for: each way in which a job could have gone wrong, done by hand."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from schemas.identity import EncoderIdentity
from schemas.index import write_index
from schemas.manifest import Manifest, load_manifest
from schemas.planes import STORAGE_DTYPES
from schemas.quarantine import Quarantined, write_quarantined
from schemas.storage import Store
from tests import datasets
from tests.chaos.equality import within_one_unit
from tests.chaos.oracle import Poison, require_same
from tests.chaos.runner import ChaosFailure
from tests.datasets import Sample, make_latent_manifest, make_manifest, samples, tensors, write_dataset, write_shard

SHARDS = {"a": 9, "b": 5}
POISON = Poison("p", "worker process died")


def write(folder: Path, *, changed: str | None = None, compute_dtype: str = "float32") -> Path:
    """A dataset; `changed` names a shard whose first caption, and so its values, are others."""
    groups = {}
    for group in ("txt", "json.long_caption"):
        rows = {name: samples(size, prefix=f"{name}-") for name, size in SHARDS.items()}
        if changed is not None and group == "txt":
            first = rows[changed][0]
            rows[changed][0] = type(first)(first.key, "other words")
        groups[group] = rows
    write_dataset(str(folder), manifest(compute_dtype), groups, make_latent_manifest())
    return folder


def manifest(compute_dtype: str) -> Manifest:
    made = make_manifest()
    encoders = {name: encoder.model_copy(update={"compute_dtype": compute_dtype}) for name, encoder in made.captions}
    return made.model_copy(update={"captions": made.captions.model_copy(update=encoders)})


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
    with pytest.raises(ChaosFailure, match="b-00000: "):
        compare(expected, write(tmp_path / "dataset", changed="b"))


Change = Callable[[dict[str, npt.NDArray[Any]]], None]


def one_value_by(steps: int) -> Change:
    """The largest value of a vector, by so many steps of its dtype away from zero."""

    def change(made: dict[str, npt.NDArray[Any]]) -> None:
        vector = made["pooled"]
        vector.view(np.uint16)[np.abs(vector.astype(np.float64)).argmax()] += np.uint16(steps)

    return change


def zeroed(made: dict[str, npt.NDArray[Any]]) -> None:
    made["hidden"][1] = 0


def swapped(made: dict[str, npt.NDArray[Any]]) -> None:
    made["hidden"][[0, 1]] = made["hidden"][[1, 0]]


ALWAYS = {("float32", True), ("float32", False), ("bfloat16", True), ("bfloat16", False)}


@pytest.mark.parametrize("same_threads", [True, False])
@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("change", "found_with"),
    [
        (one_value_by(0), set()),
        (one_value_by(1), {("float32", True), ("bfloat16", True)}),
        (one_value_by(2), ALWAYS - {("bfloat16", False)}),
        (zeroed, ALWAYS),
        (swapped, ALWAYS),
    ],
    ids=["equal", "a step", "two steps", "a zeroed token", "swapped tokens"],
)
def test_values_are_as_equal_as_is_promised(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Change,
    found_with: set[tuple[str, bool]],
    compute_dtype: str,
    same_threads: bool,
) -> None:
    def changed(identity: EncoderIdentity, sample: Sample) -> tuple[int, dict[str, npt.NDArray[Any]]]:
        num_tokens, made = tensors(identity, sample)
        if (identity.name, sample.key) == ("clip_g", "b-00003"):
            change(made)
        return num_tokens, made

    written = [write(tmp_path / "expected", compute_dtype=compute_dtype)]
    monkeypatch.setattr(datasets, "tensors", changed)
    written.append(write(tmp_path / "actual", compute_dtype=compute_dtype))
    is_found = (compute_dtype, same_threads) in found_with
    with pytest.raises(ChaosFailure, match="clip_g") if is_found else contextlib.nullcontext():
        require_same(*written, (), 2, tmp_path / "scratch", same_threads=same_threads)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_one_unit_in_the_last_place(dtype: str) -> None:
    """At a power of two, across zero, at the floor of small values, and of what is not finite."""
    stored = STORAGE_DTYPES[dtype]
    eps = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-10}[dtype]
    floor = eps / 16
    pairs = [
        (1.0, 1.0 + eps, True),
        (1.0, 1.0 + 2 * eps, False),
        (1.0, 1.0 - eps / 2, True),
        (-1.0, -1.0 - 2 * eps, False),
        (1.0, -1.0, False),
        (0.0, -0.0, True),
        (floor / 2, -floor / 2, True),
        (floor * 0.75, -floor * 0.75, False),
        (1.0, np.inf, False),
        (1.0, np.nan, False),
    ]
    # In a vector whose root mean square is 1.5, whatever the pair is.
    for left, right, expected in pairs:
        one, other = (np.array([value, *[1.5] * 9999]).astype(stored) for value in (left, right))
        assert bool(within_one_unit(one, other)[0]) is expected, (left, right)


@pytest.mark.parametrize("reasons", [("worker process died",), ("hung", "hung")])
def test_a_quarantine_too_early_or_for_another_reason_is_found(
    expected: Path, tmp_path: Path, reasons: tuple[str, ...]
) -> None:
    actual = Path(shutil.copytree(expected, tmp_path / "dataset"))
    quarantine(actual, "p", reasons)
    with pytest.raises(ChaosFailure, match=r"attempts|the reason"):
        compare(expected, actual, POISON)

"""The validator on image latents: honest ones pass whatever their kind, and each manifest stands for itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schemas
from schemas.latent_manifest import LATENTS_GROUP, create_latents_or_require_same
from schemas.latent_schema import LatentRows, latent_batch, latent_schema
from schemas.manifest import LATENT_MANIFEST_PATH, MANIFEST_PATH
from schemas.validator import LEVELS, validate
from schemas.validator.codes import Code
from schemas.validator.latent_rows import LatentRowsChecker
from tests import datasets, latent_datasets
from tests.datasets import latents, make_latent_manifest, make_manifest, pictures, samples, write_dataset
from tests.golden.damage_case import BOTH
from tests.golden.damage_dataset import ROWS, golden_latents, write_golden_latents
from tests.golden.make_damage import FOLDER, LATENT_FLAVOURS, UNDAMAGED, container_of, files, restore

FIRST_IMAGE = ("a00000", (8, 24), (0, 12), (8, 48))
FIRST_VALUES = [0.40625, 0.765625, -0.322265625, -1.6015625, 0.86328125, -1.0546875, 0.265625, -1.84375]


def problems(folder: Path, level: Any = "values") -> list[tuple[str, str]]:
    report = validate(str(folder), level, source=False)
    return [(finding.code, finding.file) for finding in report.findings]


@pytest.mark.parametrize("flavour", LATENT_FLAVOURS)
def test_the_golden_dataset_is_valid_and_still_written_so(flavour: str, tmp_path: Path) -> None:
    golden = FOLDER / flavour / UNDAMAGED
    for level in LEVELS:
        report = validate(str(golden), level, source=False)
        assert (report.findings, report.totals.groups) == ((), [LATENTS_GROUP, "txt"])
        assert (report.totals.num_rows, report.totals.num_encoded, report.totals.num_rejects) == (16, 14, 2)
    manifest = golden_latents(container_of(flavour))
    rows = list(schemas.open_dataset(str(golden)).latent_rows("a/0000"))
    assert [row.is_null for row in rows] == [False, True, False, False, False]
    for row, picture in zip(rows, pictures(manifest, [row.key for row in ROWS["a/0000"]]), strict=True):
        assert row.is_null or row.latents.tobytes() == latents(manifest.latents, picture).tobytes()
    write_golden_latents(tmp_path, container_of(flavour))
    assert (tmp_path / LATENT_MANIFEST_PATH).read_bytes() == (golden / LATENT_MANIFEST_PATH).read_bytes()
    # Compressed bytes may differ between versions of Arrow, and their checksums with them.
    names = [{name.rsplit("-", 1)[0] for name in files(folder)} for folder in (tmp_path, golden)]
    assert names[0] == names[1]
    assert [facts(tmp_path, shard) for shard in ROWS] == [facts(golden, shard) for shard in ROWS]


def facts(folder: Path, shard: str) -> dict[str, Any]:
    record = schemas.open_dataset(str(folder)).record(LATENTS_GROUP, shard).model_dump()
    return record | {"parts": [[chunk["num_rows"] for chunk in part["chunks"]] for part in record["parts"]]}


@pytest.mark.parametrize("flavour", LATENT_FLAVOURS)
def test_the_golden_values(flavour: str) -> None:
    """Written down by hand from the files in git: these must not change, whatever the code says."""
    row = next(schemas.open_dataset(str(FOLDER / flavour / UNDAMAGED)).latent_rows("a/0000"))
    assert (row.key, row.size, row.crop, row.original_size) == FIRST_IMAGE
    assert row.latents.astype(np.float32).reshape(-1)[:8].tolist() == FIRST_VALUES


@pytest.mark.parametrize("container", BOTH)
@pytest.mark.parametrize(("kind", "dtype"), [("pixels", "uint8"), ("autoencoder_kl", "float32")])
def test_latents_alone(tmp_path: Path, container: Any, kind: Any, dtype: Any) -> None:
    manifest = make_latent_manifest(container, kind, dtype)
    images = pictures(manifest, [str(n) for n in range(9)], missing=[0, 7])
    write_dataset(str(tmp_path), None, {}, manifest, {"s": images, "empty": []})
    for level in LEVELS:
        assert problems(tmp_path, level) == []
    (tmp_path / LATENT_MANIFEST_PATH).unlink()
    assert problems(tmp_path) == [("manifest-missing", LATENT_MANIFEST_PATH)]


def test_pictures_of_one_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are white pictures; latents that are all alike come from a broken encoder."""
    honest = latent_datasets.latents
    monkeypatch.setattr(latent_datasets, "latents", lambda *which: np.full_like(honest(*which), 1))
    for kind, found in (("pixels", set()), ("autoencoder_kl", {"tensor-constant"})):
        manifest = make_latent_manifest(kind=kind)
        write_dataset(str(tmp_path / kind), None, {}, manifest, {"s": pictures(manifest, ["a"])})
        assert {code for code, _ in problems(tmp_path / kind)} == found


def test_an_index_from_before_the_latents(tmp_path: Path) -> None:
    store = write_dataset(str(tmp_path), make_manifest(), {"txt": {"s": samples(3)}})
    manifest = make_latent_manifest()
    create_latents_or_require_same(store, manifest)
    assert problems(tmp_path) == []
    datasets.write_latent_shard(store, manifest, "s", pictures(manifest, [row.key for row in samples(3)]))
    assert problems(tmp_path) == [("index-stale", "index.arrow")]


def test_an_index_from_before_the_captions(tmp_path: Path) -> None:
    manifest = make_latent_manifest()
    store = write_dataset(str(tmp_path), None, {}, manifest, {"s": pictures(manifest, ["00000"])})
    datasets.create_or_require_same(store, make_manifest())
    assert problems(tmp_path) == []
    datasets.write_shard(store, make_manifest(), "txt", "s", samples(1))
    assert problems(tmp_path) == [("index-stale", "index.arrow")]


@pytest.mark.parametrize("flavour", LATENT_FLAVOURS)
@pytest.mark.parametrize("damaged", ["captions", "latents"])
def test_one_damaged_manifest_hides_nothing_of_the_other_kind(flavour: str, damaged: str, tmp_path: Path) -> None:
    restore(flavour, f"torn-{damaged}-manifest", tmp_path)
    other = "txt" if damaged == "latents" else LATENTS_GROUP
    record = json.loads((tmp_path / f"ledger/{other}/b.json").read_bytes())
    part = f"shards/b/{record['parts'][0]['name']}"
    (tmp_path / part).unlink()
    torn = LATENT_MANIFEST_PATH if damaged == "latents" else MANIFEST_PATH
    assert problems(tmp_path) == [("document-damaged", torn), ("part-missing", part)]


def test_both_manifests_missing_are_both_named(tmp_path: Path) -> None:
    restore("arrow-latents", "missing-manifests", tmp_path)
    assert problems(tmp_path) == [("manifest-missing", path) for path in (MANIFEST_PATH, LATENT_MANIFEST_PATH)]


def crop_problems(original: tuple[int, int], crop: tuple[int, int], size: tuple[int, int]) -> list[str]:
    manifest = make_latent_manifest(kind="pixels", buckets=(size,))
    shape = manifest.latents.latent_shape(*size)
    pixels = [np.zeros(shape, np.uint8)]
    columns = LatentRows(np.array([original]), np.array([crop]), np.array([size]), pixels)
    batch = latent_batch(latent_schema(manifest, "s"), manifest.latents, ["a"], np.array([True]), columns)
    found: list[tuple[Code, str]] = []

    def add(code: Code, expected: str, actual: str, row: int, key: str | None) -> None:
        found.append((code, expected))

    checker = LatentRowsChecker(manifest.latents, add)
    assert checker.check(batch, ["a"], 0).tolist() == [True]
    assert all(code is Code.IMAGE_SIZE for code, _ in found)
    return [expected.split(":")[0] for _, expected in found]


SIDE = st.integers(1, 9)


@settings(max_examples=40)
@given(original=st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)), size=st.tuples(SIDE, SIDE))
def test_a_crop_within_the_resized_image(original: tuple[int, int], size: tuple[int, int]) -> None:
    scale = max(size[0] / original[0], size[1] / original[1])
    resized = [max(side, round(whole * scale)) for side, whole in zip(size, original, strict=True)]
    spare = (resized[0] - size[0], resized[1] - size[1])
    for crop in ((0, 0), spare, (spare[0] // 2, spare[1] // 2)):
        assert crop_problems(original, crop, size) == []
    assert crop_problems(original, (spare[0] + 2, spare[1] + 2), size) == ["image.crop_top", "image.crop_left"]
    assert crop_problems(original, (-1, 0), size) == ["image.crop_top"]

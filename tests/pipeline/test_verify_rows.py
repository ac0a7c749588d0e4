"""Rows are drawn evenly, and tensors compared, as `verify` says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.verification.comparison import Figures, compare
from pipeline.verification.sampling import sample_rows
from schemas.dataset import Dataset, open_dataset
from schemas.errors import ConfigError
from tests.datasets import make_manifest as made_up_manifest
from tests.datasets import samples, write_dataset


def test_rows_are_drawn_evenly_and_again_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = made_up_manifest(chunk_rows=4)
    groups = {
        "txt": {"a": samples(30, missing=range(0, 30, 2)), "b": samples(10)},
        "json.x": {"a": samples(30), "b": samples(10, missing=range(10))},
    }
    dataset = Dataset(write_dataset(str(tmp_path / "ds"), manifest, groups).url)
    valid = {("txt", "a", i) for i in range(1, 30, 2)} | {("txt", "b", i) for i in range(10)}
    valid |= {("json.x", "a", i) for i in range(30)}

    def places(count: int, seed: int) -> list[tuple[str, str, int]]:
        return [(row.group, row.shard, row.index) for row in sample_rows(dataset, dataset.caption_groups, count, seed)]

    assert places(8, 1) == places(8, 1) != places(8, 2)
    assert places(1000, 3) == sorted(valid)
    counts = dict.fromkeys(valid, 0)
    for seed in range(60):
        found = places(11, seed)
        assert len(found) == len(set(found)) == 11
        for place in found:
            counts[place] += 1
    # Each is drawn 12 times on average; 4 to 24 is three and a half deviations.
    assert min(counts.values()) >= 2
    assert max(counts.values()) <= 26

    read: list[tuple[str, str, int]] = []
    original = Dataset.read_chunk

    def counted(self: Dataset, *place: Any) -> Any:
        read.append(place)
        return original(self, *place)

    monkeypatch.setattr(Dataset, "read_chunk", counted)
    rows = sample_rows(dataset, dataset.caption_groups, 3, 5)
    assert len(read) == len(set(read)) < 10
    assert {(row.group, row.shard, row.index // 4) for row in rows} <= set(read)
    for row in rows:
        assert row.neighbours[row.place] == row.caption == f"a picture of {row.index} things"
        assert row.key == f"{row.index:05d}"


def test_a_dataset_without_captions(tmp_path: Path) -> None:
    dataset = write_dataset(str(tmp_path / "ds"), made_up_manifest(), {"txt": {"a": samples(3, missing=range(3))}})
    with pytest.raises(ConfigError, match="nothing-to-verify"):
        sample_rows(open_dataset(dataset.url), ["txt"], 1, 0)


def test_figures() -> None:
    expected = np.array([[3.0, 4.0], [100.0, 0.0]], np.float32)
    assert compare(expected, expected) == Figures(1.0, 0, 1.0, 0.0)
    turned = compare(np.array([[4.0, -3.0], [100.0, 0.0]]), expected)
    assert (turned.cosine, turned.worst_token) == (0.0, 0)
    assert turned.whole_cosine == pytest.approx(10000 / 10025)
    assert turned.relative_error == pytest.approx((50 / 10025) ** 0.5)
    longer = compare(2 * expected, expected)
    assert (longer.cosine, longer.relative_error) == (1.0, 1.0)
    assert not longer.is_within(0.9)
    assert compare(expected * 1.001, expected).is_within(0.9995)
    assert compare(expected[:1], expected).worst_token == 1
    assert compare(expected[:1], expected).cosine == 0.0
    assert compare(np.array([np.nan, 1.0]), expected[0]) == Figures(0.0, 0, 0.0, np.inf)
    assert compare(np.zeros(2), np.zeros(2)).cosine == 1.0

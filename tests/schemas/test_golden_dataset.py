"""The dataset in git, written by an earlier release: today's reader reads it, and today's writer still writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.dataset import EncodedCaption, open_dataset
from schemas.identity import ENCODER_NAMES
from schemas.validator import LEVELS, validate
from tests.datasets import tensors
from tests.golden.damage_case import BOTH
from tests.golden.damage_dataset import GROUPS, golden_manifest, write_golden
from tests.golden.make_damage import FOLDER, UNDAMAGED, files

pytestmark = pytest.mark.parametrize("container", BOTH)

FIRST_NUM_TOKENS = 4
FIRST_VALUES = [0.369140625, -0.013671875, -0.365234375, -0.55078125, 0.71875, -0.1669921875, 0.06640625, 0.1767578125]
FIELDS = ("hidden", "pooled", "eos", "num_tokens", "truncated")


@pytest.mark.parametrize("source", ["index", "ledger"])
def test_it_reads_as_it_was_written(container: str, source: str) -> None:
    manifest = golden_manifest(container)
    dataset = open_dataset(str(FOLDER / container / UNDAMAGED), source=source)
    assert dataset.manifest == manifest
    for group, shards in GROUPS.items():
        assert dataset.shards(group) == tuple(shards)
        for shard, rows in shards.items():
            found = list(dataset.rows(group, shard))
            assert [(row.key, row.caption) for row in found] == [(row.key, row.caption) for row in rows]
            for row, sample in zip(found, rows, strict=True):
                assert row.is_null == (sample.caption is None)
                if row.is_null:
                    continue
                for name in ENCODER_NAMES:
                    num_tokens, made = tensors(manifest.captions.encoder(name), sample)
                    assert row[name].num_tokens == num_tokens
                    for field, values in made.items():
                        assert getattr(row[name], field).tobytes() == values.tobytes()


def test_its_first_values(container: str) -> None:
    """Written down by hand from the files in git: these must not change, whatever the code says."""
    row = next(open_dataset(str(FOLDER / container / UNDAMAGED)).rows("txt", "a/0000"))
    assert (row.key, row.caption) == ("a00000", "a picture of 0 things")
    assert row["t5"].num_tokens == FIRST_NUM_TOKENS
    assert row["t5"].hidden[0].astype(np.float32).tolist() == FIRST_VALUES


def test_it_is_valid(container: str) -> None:
    for level in LEVELS:
        report = validate(str(FOLDER / container / UNDAMAGED), level, source=False)
        assert report.ok
        assert report.findings == ()
        assert (report.totals.num_rows, report.totals.num_encoded, report.totals.num_rejects) == (16, 14, 2)


def test_todays_writer_writes_the_same(tmp_path: Path, container: str) -> None:
    """Values and documents. Compressed bytes may differ between versions of Arrow, and their checksums with them."""
    write_golden(tmp_path, container)
    old, new = (open_dataset(str(folder)) for folder in (FOLDER / container / UNDAMAGED, tmp_path))
    assert old.manifest == new.manifest
    assert old.manifest.identity_sha256 == new.manifest.identity_sha256
    for group in GROUPS:
        assert old.shards(group) == new.shards(group)
        for left, right in zip(old.rows(group), new.rows(group), strict=True):
            assert _values(left) == _values(right)
        for shard in old.shards(group):
            assert _facts(old.record(group, shard)) == _facts(new.record(group, shard))
    assert {name.rsplit("-", 1)[0] for name in files(tmp_path)} == {
        name.rsplit("-", 1)[0] for name in files(FOLDER / container / UNDAMAGED)
    }


def _values(row: Any) -> list[object]:
    if row.is_null:
        return [row.key, row.caption]
    return [row.key, row.caption, *(_bytes(row[name], field) for name in ENCODER_NAMES for field in FIELDS)]


def _bytes(encoded: EncodedCaption, field: str) -> object:
    value = getattr(encoded, field)
    return (value.shape, str(value.dtype), value.tobytes()) if isinstance(value, np.ndarray) else value


def _facts(record: Any) -> dict[str, Any]:
    body = record.model_dump()
    parts = body.pop("parts")
    return body | {"rows": [[chunk["num_rows"] for chunk in part["chunks"]] for part in parts]}

"""One flipped bit anywhere in a dataset is found at level checksums: in documents, parts, rejects and index alike."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.validator import validate
from tests.golden.damage_case import BOTH
from tests.golden.make_damage import FLAVOURS, FOLDER, LATENT_FLAVOURS, UNDAMAGED, files


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flips")
    return {name: Path(shutil.copytree(FOLDER / name / UNDAMAGED, folder / name)) for name in FLAVOURS}


KINDS = [(flavour, kind) for flavour in BOTH for kind in ("manifest.", "ledger", "rejects", "index", "shards")]
LATENT_KINDS = ["manifest.latents", "ledger/latents", "rejects/latents", "index"]
KINDS += [(flavour, kind) for flavour in LATENT_FLAVOURS for kind in LATENT_KINDS]


@pytest.mark.parametrize(("flavour", "kind"), KINDS)
@settings(max_examples=40)
@given(data=st.data())
def test_every_flip_is_found(datasets: dict[str, Path], flavour: str, kind: str, data: st.DataObject) -> None:
    folder = datasets[flavour]
    name = data.draw(st.sampled_from(sorted(name for name in files(folder) if name.startswith(kind))), "file")
    honest = (folder / name).read_bytes()
    bit = data.draw(st.integers(0, 8 * len(honest) - 1), "bit")
    flipped = bytearray(honest)
    flipped[bit // 8] ^= 1 << bit % 8
    (folder / name).write_bytes(flipped)
    try:
        report = validate(str(folder), "checksums")
    finally:
        (folder / name).write_bytes(honest)
    assert not report.ok
    assert name in {finding.file for finding in report.findings}
    assert "check-failed" not in report.counts

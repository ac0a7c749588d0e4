"""A few flips of every file; 20 of each by `python -m tests.chaos.bit_flips`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import bit_flips
from trainer.stream import fetch


@pytest.mark.parametrize("container", bit_flips.CONTAINERS)
def test_every_flip_is_found(container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_FIRST_PAUSE_SECONDS", 0.01)
    folder = tmp_path / "dataset"
    bit_flips.write(folder, container)
    tally = bit_flips.flip_every_file(folder, container, 3, 20261123, as_command=False)
    assert tally.missed == []
    kinds = {kind.split()[1] for kind in tally.flips}
    assert kinds == {"manifest", "ledger", "rejects", "index", "shards"}
    assert {kind.split()[1] for kind in tally.trained} == kinds - {"rejects"}

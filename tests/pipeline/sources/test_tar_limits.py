"""A tar of more samples or rejects than a shard may have is refused, at the first that is one too many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.sources import tar_limits
from pipeline.sources.tar_limits import require_rejects, require_rows
from schemas.errors import DamagedDataError
from tests.golden.tar_bytes import END, member, sample
from tests.pipeline.sources.tars import captions, scan_bytes

NO_KEY = member("nokey", "a name without extension")


@pytest.mark.parametrize(
    ("require", "most", "words"), [(require_rows, 4_000_000, "samples"), (require_rejects, 1_000_000, "rejects")]
)
def test_the_limits(require: Callable[[int, str], None], most: int, words: str) -> None:
    require(most, "x.tar")
    with pytest.raises(DamagedDataError, match="tar-too-many") as caught:
        require(most + 1, "x.tar")
    assert caught.value.where == "x.tar"
    assert caught.value.expected.startswith(f"at most {most:,} {words}")


def test_samples_of_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_limits, "MAX_SHARD_ROWS", 3)
    data = b"".join(sample(key, "text") for key in "abc") + member("a.json", "{}")
    assert list(captions(scan_bytes(tmp_path, data + END))) == ["a", "b", "c"]
    with pytest.raises(DamagedDataError, match="tar-too-many"):
        scan_bytes(tmp_path, data + sample("d", "text") + END)


def test_members_without_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_limits, "MAX_REJECTS", 3)
    assert scan_bytes(tmp_path, NO_KEY * 3 + sample("a", "text") + END).num_rejects("txt") == 3
    # Refused as it is met, not when the whole tar is read.
    refused: list[int] = []
    monkeypatch.setattr(
        "pipeline.sources.samples.require_rejects", lambda n, where: refused.append(n) or require_rejects(n, where)
    )
    with pytest.raises(DamagedDataError, match="tar-too-many"):
        scan_bytes(tmp_path, NO_KEY * 9 + sample("a", "text") + END)
    assert refused == [1, 2, 3, 4]


def test_rows_without_a_caption_count_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_limits, "MAX_REJECTS", 3)
    data = NO_KEY * 2 + member("a.jpg", "x") + sample("c", "text")
    assert scan_bytes(tmp_path, data + END).num_rejects("txt") == 3
    with pytest.raises(DamagedDataError, match="tar-too-many"):
        scan_bytes(tmp_path, data + member("b.jpg", "x") + END)

"""The benchmark of the write path writes, reads back and compares, at a tiny size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.write_path import Config, extract, table

PARTS = {"split", "compress", "xxh3", "sha256", "pack", "write file"}


def has_history(repository: Path) -> bool:
    command = ["git", "-C", str(repository), "cat-file", "-e", f"{Config().baseline}^{{commit}}"]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("write")
    command = [sys.executable, "-m", "benchmarks.write_path", "--captions", "70", "--repetitions", "1", "--cores", "1"]
    options = ["--folder", str(folder), "--output", str(folder / "figures.json")]
    subprocess.run([*command, *options], cwd=repository, check=True, timeout=200)
    assert [path.name for path in folder.iterdir()] == ["figures.json"]
    found: dict[str, Any] = json.loads((folder / "figures.json").read_text())
    return found


def test_it_measures_both_presets_beside_the_bare_parts(facts: dict[str, Any]) -> None:
    assert set(facts["presets"]) == {"sd3", "compact"}
    for found in facts["presets"].values():
        (row,) = found["rows"]
        assert row["cores"] == 1
        assert row["captions_per_second"] > 0
        assert row["share_of_allowed"] == pytest.approx(
            row["captions_per_second"] / row["allowed_captions_per_second"], rel=0.01
        )
        parts = found["cpu_us_per_caption_of_one_thread"]
        assert set(parts) == PARTS
        bare = sum(parts[name] for name in PARTS - {"pack", "write file"})
        assert row["allowed_captions_per_second"] == pytest.approx(1e6 / bare, rel=0.01)
        assert row["share_of_allowed_with_file"] > row["share_of_allowed"]
    # bfloat16, 77 tokens of the real widths, of which 0.68 is stored.
    assert 0.6 < facts["presets"]["sd3"]["bytes_per_caption"] / (77 * 6144 * 2) < 0.75
    assert facts["presets"]["compact"]["bytes_per_caption"] < 0.5 * facts["presets"]["sd3"]["bytes_per_caption"]


def test_the_commit_before_is_measured_where_history_is(facts: dict[str, Any], repository: Path) -> None:
    """It has written files of the same names; otherwise the benchmark would have failed."""
    rows = [row for found in facts["presets"].values() for row in found["rows"]]
    if has_history(repository):
        assert facts["baseline"]["left_out"] is None
        assert all(row["times_baseline"] > 0 for row in rows)
    else:
        assert facts["baseline"]["left_out"]
        assert not any("times_baseline" in row for row in rows)
        assert "not measured" in table(facts)


def test_sources_without_history_say_so(tmp_path: Path) -> None:
    missing = extract(tmp_path, "0183df2", tmp_path / "baseline")
    assert missing is not None
    assert missing.startswith("fatal: repository ")

"""What a stranger wrote is shown on a terminal, never obeyed: in reports, in `inspect`, at the end of a run."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from schemas.inspection import inspect_dataset
from schemas.inspection.text import line, pairs, table
from schemas.printable import printable, printable_json, printable_lines
from schemas.validator import validate
from tests.datasets import Sample, make_manifest, samples, write_dataset

TITLE_AND_OK = "a\x1b]0;title\x07\nok\r\u202e\x9b2J"
SHOWN = r"a\x1b]0;title\x07\nok\r\u202e\x9b2J"
SHARD = "s/a\u2028ok\x9b2J\u202e"
"""No store has objects whose names have ASCII's control characters, but there are others."""


def test_what_has_no_shape_is_escaped() -> None:
    assert printable(TITLE_AND_OK) == SHOWN
    assert printable("ein Hündchen, 猫 und 🐈") == "ein Hündchen, 猫 und 🐈"
    assert printable("a\u2028b\u2066c\udcff") == r"a\u2028b\u2066c\udcff"


@given(st.text())
def test_nothing_else_is_left(text: str) -> None:
    assert printable(text).isprintable()
    assert all(part.isprintable() for part in printable_lines(text).split("\n    "))


@given(st.dictionaries(st.text(), st.lists(st.text())))
def test_json_is_exact_and_harmless(document: dict[str, list[str]]) -> None:
    text = printable_json(document)
    assert json.loads(text) == document
    assert text.replace("\n", "").isprintable()


@pytest.fixture
def url(tmp_path: Path) -> str:
    rows = [Sample(TITLE_AND_OK, TITLE_AND_OK), *samples(3), Sample(TITLE_AND_OK, "twice")]
    write_dataset(str(tmp_path), make_manifest(padding="none"), {"txt": {SHARD: rows}})
    return str(tmp_path)


def test_findings_are_lines_of_ours_alone(url: str) -> None:
    command = [sys.executable, "-m", "schemas", "validate", url, "--level", "values"]
    text = subprocess.run(command, capture_output=True, text=True, check=False)
    assert text.returncode == 1
    assert SHOWN in text.stdout
    assert "ok" not in text.stdout.splitlines()
    assert text.stdout.replace("\n", "").isprintable()
    document = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False).stdout
    assert document.replace("\n", "").isprintable()
    files = {finding["file"] for finding in json.loads(document)["findings"]}
    assert files == {finding.file for finding in validate(url, "values").findings}
    assert any(SHARD in file for file in files)


@pytest.mark.parametrize("what", [{}, {"shard": SHARD}, {"shard": SHARD, "row": 0}])
def test_inspection_shows_no_line_of_a_stranger(url: str, what: dict[str, object]) -> None:
    console = Console(file=io.StringIO(), width=200, highlight=False, markup=False, emoji=False)
    inspect_dataset(url, console, **what)
    text = console.file.getvalue()
    assert SHOWN in text
    assert text.replace("\n", "").isprintable()
    assert "ok" not in [row.split()[0] for row in text.splitlines() if row.strip()]
    assert ascii(SHARD)[1:-1] in text


def test_titles_and_cells_are_escaped() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(pairs(TITLE_AND_OK, [("name", TITLE_AND_OK), (TITLE_AND_OK, line(TITLE_AND_OK))]))
    made = table("", "")
    made.add_row("b\x1b[2J", "c\nok")
    console.print(made)
    text = console.file.getvalue()
    assert text.count(SHOWN) == 4
    assert r"b\x1b[2J  c\nok" in text
    assert text.replace("\n", "").isprintable()

"""Every golden tar is read as its expectation says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.sources import CAPTION_CODES, DAMAGE_CODES, MEMBER_CODES
from tests.golden.make_tars import FOLDER, all_tars, expected_json
from tests.pipeline.sources.tars import scan_file, summary

EXPECTED = json.loads((FOLDER / "expected.json").read_bytes())


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_tar_is_read_as_expected(name: str) -> None:
    expected = EXPECTED[name]
    assert summary(scan_file(FOLDER / f"{name}.tar", list(expected["captions"]))) == expected


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_captions_are_the_same_when_they_are_read_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sources.samples.CAPTION_BUDGET_BYTES", 0)
    expected = EXPECTED[name]
    assert summary(scan_file(FOLDER / f"{name}.tar", list(expected["captions"]))) == expected


def test_files_are_what_the_generator_makes() -> None:
    made = {f"{tar.name}.tar": tar.data for tar in all_tars()} | {"expected.json": expected_json()}
    stored = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    assert sorted(made) == sorted(stored)
    assert [name for name in made if made[name] != stored[name]] == []


def test_every_code_has_a_golden_tar() -> None:
    seen = {entry[0] for expected in EXPECTED.values() for entry in [*expected["refused"], *expected["damage"]]}
    seen |= {entry[0] for expected in EXPECTED.values() for found in expected["faults"].values() for entry in found}
    # Too large for git; tests/pipeline/sources/test_large_members.py has it.
    assert seen | {"caption-too-large"} == {*CAPTION_CODES, *MEMBER_CODES, *DAMAGE_CODES}


def test_rejects_name_member_and_place() -> None:
    scan = scan_file(Path(FOLDER / "captions_missing.tar"), ["txt", "json.caption"])
    missing = scan.rejects_of("txt")[1]
    assert missing.reason == "the sample has no member 'txt'; it has: jpg, json"
    duplicate = scan_file(FOLDER / "duplicates.tar").rejects_of("txt")[1]
    assert (duplicate.member, duplicate.offset, duplicate.has_row) == ("./a.txt", 5120, False)
    fault = scan_file(FOLDER / "odd_texts.tar").rejects_of("txt")[0]
    assert (fault.member, fault.offset, fault.has_row) == ("latin1.txt", 4608, True)

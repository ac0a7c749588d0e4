"""Every golden damage is named by the validator, at the first level that can see it and at those above."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.validator import LEVELS, validate
from tests.golden.damage_case import Case
from tests.golden.make_damage import FLAVOURS, FOLDER, all_cases, restore

ALL = [(flavour, case) for flavour in FLAVOURS for case in all_cases(flavour)]


@pytest.mark.parametrize(("flavour", "case"), ALL, ids=[f"{flavour}-{case.name}" for flavour, case in ALL])
def test_damage_is_named(flavour: str, case: Case, tmp_path: Path) -> None:
    restore(flavour, case.name, tmp_path)
    for level in LEVELS:
        report = validate(str(tmp_path), level, source=False)
        found = {finding.code for finding in report.findings if finding.severity != "note"}
        if LEVELS.index(level) >= LEVELS.index(case.level):
            assert report.ok != case.is_error
            assert case.codes <= found
            assert "check-failed" not in found
        elif not found:
            assert report.ok
        if level == case.level:
            assert found == case.codes


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_stored_damages_are_those_of_the_generator(flavour: str) -> None:
    stored = {path.stem: json.loads(path.read_bytes()) for path in (FOLDER / flavour).glob("*.json")}
    wanted = {case.name: (case.level, sorted(case.codes), case.is_error) for case in all_cases(flavour)}
    assert {name: (s["level"], s["codes"], s["is_error"]) for name, s in stored.items()} == wanted

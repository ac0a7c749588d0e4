"""Every golden damage is named by the validator, at the first level that can see it and at those above."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.validator import LEVELS, validate
from tests.golden.damage_case import BOTH, Case
from tests.golden.make_damage import FOLDER, all_cases, restore

ALL = [(container, case) for container in BOTH for case in all_cases(container)]


@pytest.mark.parametrize(("container", "case"), ALL, ids=[f"{container}-{case.name}" for container, case in ALL])
def test_damage_is_named(container: str, case: Case, tmp_path: Path) -> None:
    restore(container, case.name, tmp_path)
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


@pytest.mark.parametrize("container", BOTH)
def test_the_stored_damages_are_those_of_the_generator(container: str) -> None:
    stored = {path.stem: json.loads(path.read_bytes()) for path in (FOLDER / container).glob("*.json")}
    wanted = {case.name: (case.level, sorted(case.codes), case.is_error) for case in all_cases(container)}
    assert {name: (s["level"], s["codes"], s["is_error"]) for name, s in stored.items()} == wanted

"""Every golden damage is named by the validator, at the first level that can see it and at those above."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from schemas.dataset import open_dataset
from schemas.identity import ENCODER_NAMES
from schemas.validator import LEVELS, validate
from tests.datasets import tensors
from tests.golden.damage_case import BOTH, Case
from tests.golden.damage_dataset import GROUPS, golden_manifest, write_golden
from tests.golden.make_damage import FOLDER, UNDAMAGED, all_cases, restore

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

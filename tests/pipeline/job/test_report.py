"""The end of a run names shards and reasons that a stranger chose, on lines of ours alone."""

from __future__ import annotations

import dataclasses

import pytest

from pipeline.job.events import UnitFailure
from pipeline.job.finalize import Totals
from pipeline.job.plan import Plan
from pipeline.job.report import print_summary
from pipeline.job.run import JobOutcome
from pipeline.presets import PRESETS

HOSTILE = "a\x1b]0;title\x07\u2028ok\u202e"


def test_a_name_that_steers_a_terminal_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    config = dataclasses.replace(PRESETS["demo"][1], input="tars", output=f"out/{HOSTILE}")
    failure = UnitFailure(HOSTILE, 1, (f"{HOSTILE}\nok",))
    outcome = JobOutcome((), (failure,), 0, None, 1.0, 1, "cpu")
    plan = Plan(("txt",), 1, {}, 0, (), (), {"txt": set()})
    print_summary(config, plan, outcome, Totals(0, 0, 0, 0, 0, 0, 0, ()))
    text = capsys.readouterr().out
    shown = r"a\x1b]0;title\x07\u2028ok\u202e"
    assert f"out/{shown}\n" in text
    assert f"!   {shown}: " in text
    assert text.replace("\n", "").isprintable()
    assert "ok" not in text.splitlines()

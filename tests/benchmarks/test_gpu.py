"""The runner of `benchmarks.gpu`: sections that fail, die or never end, and the report of what is there."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.__main__ import SECTIONS, Section, limit_seconds, run_sections
from benchmarks.gpu.result import ERROR, FAILED, OUT_OF_TIME, PASSED, Goal, Result

_OPTIONS = ["--size", "tiny", "--device", "cpu", "--cores", "1"]


def section(name: str, seconds: float = 100.0) -> Section:
    return Section(name, f"tests.benchmarks.gpu_sections:{name}", seconds)


def is_dead(pid: int) -> bool:
    """Within some seconds; a zombie is dead, too."""
    for _ in range(100):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_what_becomes_of_one_section_does_not_keep_the_next_from_running(tmp_path: Path) -> None:
    names = ["finds_wrong_values", "raises", "checks_nothing", "dies", "dies_after_its_work", "passes"]
    results = run_sections(list(map(section, names)), seconds=600, output=tmp_path, data=tmp_path, options=_OPTIONS)
    assert [result.status for result in results] == [FAILED, ERROR, FAILED, ERROR, ERROR, PASSED]
    by_name = {result.name: json.loads((tmp_path / f"{result.name}.json").read_text()) for result in results}
    assert "RuntimeError: planted fault" in by_name["raises"]["error"]
    assert by_name["raises"]["lines"] == ["So far."]
    assert by_name["dies"]["error"] == "exit status 7\nbefore the end"
    assert by_name["dies_after_its_work"]["error"].startswith("exit status 9")
    assert by_name["passes"]["goals"][0]["reached"] is False
    report = (tmp_path / "report.md").read_text()
    assert "| passes | passed | 1 of 1 held |" in report
    assert "| finds_wrong_values | **failed** | 1 of 2 held |" in report
    assert "- values are close: error 0.7" in report
    assert "RuntimeError: planted fault" in report
    assert "| speed | 3.00 × | ≥ 4 | **no** |" in report
    assert "All is well." in report
    assert not [path for path in tmp_path.iterdir() if path.is_dir() or path.name.startswith(".")]


def test_a_section_out_of_time_is_ended_with_its_children_and_keeps_what_it_found(tmp_path: Path) -> None:
    sections = [section("never_ends", 80.0), section("passes", 500.0)]
    results = run_sections(sections, seconds=60, output=tmp_path, data=None, options=_OPTIONS)
    assert [result.status for result in results] == [OUT_OF_TIME, PASSED]
    assert results[0].seconds < 30
    assert [check.name for check in results[0].checks] == ["the first of two"]
    # It says where it was.
    assert results[0].error is not None
    assert "in never_ends" in results[0].error
    child = int((tmp_path / "child.pid").read_text())
    assert is_dead(child)
    report = (tmp_path / "report.md").read_text()
    assert "| never_ends | **out of time** | 1 of 1 held |" in report
    assert "in never_ends" in report


def test_the_report_grows_with_each_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    whole = command.write_atomically
    monkeypatch.setattr(command, "write_atomically", lambda path, text: (seen.append(text), whole(path, text)))
    run_sections([section("passes"), section("dies")], seconds=600, output=tmp_path, data=tmp_path, options=_OPTIONS)
    assert len(seen) == 2
    assert "| dies | not run yet |" in seen[0]
    assert "| dies | **error** |" in seen[1]


@pytest.mark.parametrize(("name", "status"), [("passes", 0), ("finds_wrong_values", 1), ("dies", 1)])
def test_the_exit_status_says_whether_all_checks_held(
    name: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "SECTIONS", (section("passes"), section(name)))
    options = ["--size", "tiny", "--device", "cpu", "--cores", "1", "--output", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", ["gpu", *options])
    with pytest.raises(SystemExit) as ended:
        command.main()
    # A figure that misses its target, as the one of `passes`, does not change it.
    assert ended.value.code == status
    assert "| speed | 3.00 × | ≥ 4 | **no** |" in capsys.readouterr().out


def test_limits_add_up_to_the_time_of_the_run() -> None:
    shares = [one.seconds for one in SECTIONS]
    assert sum(shares) <= 580
    # All take as long as they may.
    left, taken = 597.0, []
    for index in range(len(shares)):
        taken.append(limit_seconds(shares[index:], left, 600))
        left -= taken[-1]
    assert sum(taken) == pytest.approx(597)
    assert all(limit >= 0.99 * share for limit, share in zip(taken, shares, strict=True))
    # Time that one does not need goes to the next.
    assert limit_seconds(shares[1:], 590, 600) > limit_seconds(shares[1:], 560, 600)
    # Half of the time is half of the shares.
    assert limit_seconds([300, 300], 300, 300) == pytest.approx(150)
    assert limit_seconds([300, 300], 100, 600) == pytest.approx(50)
    assert limit_seconds([300], -5, 600) == 1


def test_goals_are_reached_or_not_and_documents_are_read_back(tmp_path: Path) -> None:
    assert Goal("a", 0.97, "0.97", 0.97).reached is True
    assert Goal("a", 0.96, "0.96", 0.97).reached is False
    assert Goal("a", 0.02, "2%", 0.01, at_most=True).reached is False
    assert Goal("a", 0.02, "2%").reached is None
    result = Result("some", tmp_path / "some.json", goals=[Goal("a", 1.0, "1")], facts={"rows": [1]})
    assert not result.held
    result.check("holds", held=True, found=3)
    assert result.held
    result.note("A line.")
    assert Result.load(tmp_path / "some.json") == result

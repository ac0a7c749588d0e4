"""The document of a section and the report of all sections, each replaced atomically as it grows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PASSED, FAILED, ERROR, OUT_OF_TIME = "passed", "failed", "error", "out of time"


@dataclass(frozen=True)
class Check:
    """A statement about values.

    Attributes:
        name: What must hold.
        held: Whether it does.
        found: What was found.
    """

    name: str
    held: bool
    found: str


@dataclass(frozen=True)
class Goal:
    """A figure beside its target.

    Attributes:
        name: Of the figure.
        value: It.
        text: It, for people.
        target: To reach; None where nothing was set.
        at_most: Whether the target is an upper bound.
    """

    name: str
    value: float
    text: str
    target: float | None = None
    at_most: bool = False

    @property
    def reached(self) -> bool | None:
        """None without a target."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


@dataclass
class Result:
    """A section's document.

    Attributes:
        name: Of the section.
        path: The JSON file, replaced at every change; None: none is written.
        status: One of the four above; None while it runs.
        seconds: That it took.
        limit_seconds: That it was given.
        checks: In the order in which they were made.
        goals: The figures that have a target, or belong beside one.
        lines: Markdown.
        facts: Everything else.
        error: Traceback, or the end of the log.
    """

    name: str
    path: Path | None = None
    status: str | None = None
    seconds: float = 0.0
    limit_seconds: float = 0.0
    checks: list[Check] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    @classmethod
    def load(cls, path: Path) -> Result:
        """Of a file that `save` wrote."""
        found = json.loads(path.read_text())
        checks = [Check(**check) for check in found.pop("checks")]
        goals = [
            Goal(**{name: value for name, value in goal.items() if name != "reached"}) for goal in found.pop("goals")
        ]
        return cls(**found, path=path, checks=checks, goals=goals)

    @property
    def held(self) -> bool:
        """Whether every check held; False without any."""
        return bool(self.checks) and all(check.held for check in self.checks)

    def check(self, name: str, held: bool, found: object) -> None:
        """Records a check."""
        print(f"{'ok  ' if held else 'FAIL'} {name}: {found}", flush=True)
        self.checks.append(Check(name, bool(held), str(found)))
        self.save()

    def note(self, *lines: str) -> None:
        """Adds Markdown."""
        print("\n".join(lines), flush=True)
        self.lines += lines
        self.save()

    def save(self) -> None:
        """Replaces the file."""
        if self.path is None:
            return
        found = asdict(self)
        found.pop("path")
        for goal, document in zip(self.goals, found["goals"], strict=True):
            document["reached"] = goal.reached
        write_atomically(self.path, json.dumps(found, indent=2, default=str) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file by a whole one, so that a reader never sees a part."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def report(results: Sequence[Result], names: Sequence[str], machine: str) -> str:
    """The report in Markdown.

    Args:
        results: Of the sections that are done, or cut off.
        names: Of all sections, in order.
        machine: One line.
    """
    by_name = {result.name: result for result in results}
    lines = ["# A run on a GPU", "", machine, "", "| section | status | checks | s | of s |", "|---|---|---|---|---|"]
    for name in names:
        result = by_name.get(name)
        if result is None:
            lines.append(f"| {name} | not run yet |  |  |  |")
            continue
        held = sum(check.held for check in result.checks)
        status = result.status if result.status == PASSED else f"**{result.status}**"
        lines.append(
            f"| {name} | {status} | {held} of {len(result.checks)} held | {result.seconds:.0f} | "
            f"{result.limit_seconds:.0f} |"
        )
    goals = [goal for result in results for goal in result.goals]
    if goals:
        lines += ["", "| figure | measured | target | reached |", "|---|---|---|---|", *_goal_lines(goals)]
    for result in results:
        lines += ["", f"## {result.name}: {result.status}", "", *_section(result)]
    return "\n".join(lines).rstrip() + "\n"


def _goal_lines(goals: Iterable[Goal]) -> list[str]:
    lines = []
    for goal in goals:
        target = "" if goal.target is None else f"{'≤' if goal.at_most else '≥'} {goal.target:g}"
        reached = {None: "", True: "yes", False: "**no**"}[goal.reached]
        lines.append(f"| {goal.name} | {goal.text} | {target} | {reached} |")
    return lines


def _section(result: Result) -> list[str]:
    lines: list[str] = []
    broken = [check for check in result.checks if not check.held]
    if broken:
        lines += ["**Checks that do not hold:**", "", *(f"- {check.name}: {check.found}" for check in broken), ""]
    if result.error:
        lines += ["```text", result.error.rstrip(), "```", ""]
    return lines + result.lines

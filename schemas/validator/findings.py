"""Findings, and the report they add up to."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from schemas.errors import EncodeOnceError, StorageError
from schemas.validator.codes import BY_NAME, Code, Severity

Level = Literal["structure", "checksums", "values"]
LEVELS: tuple[Level, ...] = get_args(Level)

MAX_FINDINGS_PER_CODE = 1000
"""More of a kind are counted but not kept: a dataset of a million damaged rows must not fill the memory."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        code: Stable name; all of them are listed in docs/findings.md.
        severity: "error", "warning" or "note".
        file: The object at fault, relative to the dataset.
        row: Row within the shard, from 0.
        key: The row's key.
        offset: Byte offset within the file.
        expected: What should be there.
        actual: What is there.
        remedy: What to do.
    """

    code: str
    severity: str
    file: str
    row: int | None
    key: str | None
    offset: int | None
    expected: str
    actual: str
    remedy: str


@dataclass
class Totals:
    """What was looked at."""

    num_shards: int = 0
    num_records: int = 0
    num_parts: int = 0
    num_rows: int = 0
    num_encoded: int = 0
    num_rejects: int = 0
    num_bytes: int = 0
    num_sources_counted: int = 0
    groups: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """What a validation found.

    Attributes:
        url: The dataset.
        level: How deep it was checked.
        findings: At most `MAX_FINDINGS_PER_CODE` of each code.
        counts: Findings of each code, all of them.
        severities: Findings of each severity, all of them.
        totals: What was looked at.
    """

    url: str
    level: Level
    findings: tuple[Finding, ...]
    counts: dict[str, int]
    severities: dict[str, int]
    totals: Totals

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return self.severities[Severity.ERROR.value] == 0

    def to_json(self) -> dict[str, Any]:
        """The report as `--json` prints it."""
        return {"ok": self.ok, **asdict(self)}


class Findings:
    """Collects findings from many threads.

    Args:
        live: Whether a run is writing to the dataset at this moment.
    """

    def __init__(self) -> None:
        self.live = False
        self._lock = threading.Lock()
        self._kept: list[Finding] = []
        self._counts: Counter[str] = Counter()
        self._severities: Counter[str] = Counter({severity.value: 0 for severity in Severity})

    def add(
        self,
        code: Code,
        file: str,
        *,
        expected: str,
        actual: str,
        row: int | None = None,
        key: str | None = None,
        offset: int | None = None,
        severity: Severity | None = None,
        remedy: str | None = None,
    ) -> None:
        """Adds one finding; severity and remedy are the code's own unless told otherwise."""
        level = (severity or code.severity).value
        finding = Finding(code.code, level, file, row, key, offset, expected, actual, remedy or code.remedy)
        with self._lock:
            self._counts[code.code] += 1
            self._severities[level] += 1
            if self._counts[code.code] <= MAX_FINDINGS_PER_CODE:
                self._kept.append(finding)

    def add_error(self, error: BaseException, file: str, *, instead: Code | None = None, **where: Any) -> None:
        """Adds what an error says.

        Args:
            error: One of ours keeps its code, expected, actual and remedy; any other is a `check-failed`.
            file: The object that was being checked.
            instead: The code to use for damage where the error's own is too general.
            where: `row`, `key` or `offset`.
        """
        if not isinstance(error, EncodeOnceError):
            actual = f"{type(error).__name__}: {str(error)[:300]}"
            self.add(Code.CHECK_FAILED, file, expected="an object that can be checked", actual=actual, **where)
            return
        code = BY_NAME.get(error.code, Code.CHECK_FAILED)
        if instead is not None and not isinstance(error, StorageError):
            code = instead
        self.add(code, file, expected=error.expected, actual=error.actual, remedy=error.remedy, **where)

    def guard(self, file: str, *, instead: Code | None = None, **where: Any) -> _Guard:
        """A context that turns whatever goes wrong inside into a finding about `file`; arguments as `add_error`."""
        return _Guard(self, file, instead, where)

    def report(self, url: str, level: Level, totals: Totals) -> Report:
        """Everything found so far, by severity, code and file."""
        severities = [severity.value for severity in Severity]
        with self._lock:
            kept = sorted(
                self._kept,
                key=lambda f: (severities.index(f.severity), f.code, f.file, f.row or 0, f.offset or 0, f.actual),
            )
            return Report(url, level, tuple(kept), dict(sorted(self._counts.items())), dict(self._severities), totals)


class _Guard:
    def __init__(self, findings: Findings, file: str, instead: Code | None, where: dict[str, Any]) -> None:
        self._findings = findings
        self._file = file
        self._instead = instead
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._findings.add_error(error, self._file, instead=self._instead, **self._where)
        return True


Progress = Callable[[int, int], None]
"""Called with the number of shards done and their total."""

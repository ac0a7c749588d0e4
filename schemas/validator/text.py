"""A report for people: grouped by code, the first findings of each, and a last line that says it all."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from schemas.printable import printable, printable_lines
from schemas.validator.codes import BY_NAME, Severity
from schemas.validator.findings import Finding, Report, Totals

SHOWN_PER_CODE = 5


def report_lines(report: Report, *, shown: int = SHOWN_PER_CODE) -> Iterator[str]:
    """The lines to print. Names and values of a dataset are a stranger's: what steers a terminal is escaped.

    Args:
        report: What was found.
        shown: Findings of each code; the others are only counted.
    """
    yield f"{printable(report.url)}, level {report.level}"
    yield f"  {_looked_at(report.totals)}"
    for (severity, code), found in groupby(report.findings, key=lambda finding: (finding.severity, finding.code)):
        findings = list(found)
        yield ""
        yield f"{severity}: {code}: {BY_NAME[code].meaning}"
        for finding in findings[:shown]:
            yield from _finding_lines(finding)
        hidden = max(len(findings), report.counts[code] if len(findings) >= shown else 0) - shown
        if hidden > 0:
            yield f"  ... and {hidden:,} more of this kind (--json lists them)"
        for remedy in dict.fromkeys(finding.remedy for finding in findings[:shown]):
            yield f"  remedy: {printable_lines(remedy)}"
    yield ""
    yield _last_line(report)


def _finding_lines(finding: Finding) -> Iterator[str]:
    place = [finding.file]
    if finding.row is not None:
        place.append(f"row {finding.row}")
    if finding.key is not None:
        place.append(f"key {finding.key!r}")
    if finding.offset is not None:
        place.append(f"byte {finding.offset}")
    yield f"  {printable(', '.join(place))}"
    yield f"    expected: {printable_lines(finding.expected)}"
    yield f"    actual:   {printable_lines(finding.actual)}"


def _looked_at(totals: Totals) -> str:
    groups = printable(", ".join(totals.groups)) or "none"
    return (
        f"{totals.num_shards:,} shards, groups: {groups}; {totals.num_rows:,} rows, {totals.num_encoded:,} encoded, "
        f"{totals.num_rejects:,} rejects; {totals.num_parts:,} parts, {totals.num_bytes:,} bytes"
        + (f"; {totals.num_sources_counted:,} input tars counted" if totals.num_sources_counted else "")
    )


def _last_line(report: Report) -> str:
    counts = [
        f"{number:,} {severity.value}{'s' if number != 1 else ''}"
        for severity in Severity
        if (number := report.severities[severity.value])
    ]
    if report.ok:
        return f"ok{' (' + ', '.join(counts) + ')' if counts else ''}"
    return f"FAILED: {', '.join(counts)}. All codes: docs/findings.md"

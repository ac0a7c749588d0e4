"""One target, for a time, guided by the coverage of our own code: atheris (libFuzzer) chooses the draws.

The bytes that libFuzzer mutates are not read themselves: they decide what the target's structure-aware changes are.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(
    include=["schemas", "pipeline.sources", "trainer.stream"], enable_loader_override=False
):
    from tests.fuzz.all_targets import TARGETS
from tests.fuzz.campaign import LAST_CASE
from tests.fuzz.target import Finding, judge

_LENGTH = 4096


class DrawnFromBytes(Random):
    """A source of draws that are given, and the same ones ever when they are used up: not zeros, which never end."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._provider = atheris.FuzzedDataProvider(data)

    def getrandbits(self, k: int) -> int:
        """The next bits."""
        if not self._provider.remaining_bytes():
            return super().getrandbits(k)
        found: int = self._provider.ConsumeUInt((k + 7) // 8) >> (-k % 8)
        return found

    def random(self) -> float:
        """The next number from 0 to 1."""
        return self.getrandbits(53) / 2**53


def main() -> None:
    name, seconds, _, folder = sys.argv[1:]
    target, kept = TARGETS[name], Path(folder)
    kept.mkdir(parents=True, exist_ok=True)
    outcomes: Counter[str] = Counter()
    findings = 0
    started = time.monotonic()

    def one(data: bytes) -> None:
        nonlocal findings
        case = target.make(DrawnFromBytes(data))
        (kept / LAST_CASE).write_bytes(case)
        try:
            outcomes[judge(target, case)] += 1
        except Finding as found:
            findings += 1
            (kept / f"guided-case-{sum(outcomes.values()) + findings}").write_bytes(case)
            print(found, file=sys.stderr, flush=True)
        if time.monotonic() >= started + float(seconds):
            _report(name, outcomes, findings, time.monotonic() - started)

    # libFuzzer ends the process itself; the time limit here comes before its own.
    limits = [f"-max_len={_LENGTH}", f"-max_total_time={int(float(seconds)) + 60}", "-rss_limit_mb=4096"]
    output = [f"-artifact_prefix={kept}/", "-len_control=0", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *limits, *output], one)
    atheris.Fuzz()


def _report(name: str, outcomes: Counter[str], findings: int, taken: float) -> None:
    cases = sum(outcomes.values()) + findings
    result = {
        "target": name,
        "engine": "atheris",
        "cases": cases,
        "seconds": round(taken, 1),
        "cases_per_second": round(cases / taken, 1),
        "findings": findings,
        "outcomes": dict(outcomes.most_common()),
    }
    print(json.dumps(result), flush=True)
    # libFuzzer would take the end of the process for a finding.
    os._exit(0)


if __name__ == "__main__":
    main()

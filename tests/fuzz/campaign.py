"""One target, for a time, with cases drawn from a seed."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.fuzz.all_targets import TARGETS
from tests.fuzz.target import Finding, Target, judge

LAST_CASE = "last-case"
_MOST_KEPT = 10


def run(target: Target, seconds: float, seed: int, folder: Path) -> dict[str, object]:
    """Reads cases until the time is over.

    Args:
        target: What reads.
        seconds: How long.
        seed: Decides all cases.
        folder: Where the case at hand is kept, and those that must not be.

    Returns:
        What to print.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outcomes: Counter[str] = Counter()
    kinds: dict[str, int] = {}
    cases, started = 0, time.monotonic()
    while time.monotonic() < started + seconds:
        data = target.make(Random(f"{target.name} {seed} {cases}"))
        (folder / LAST_CASE).write_bytes(data)
        cases += 1
        try:
            outcomes[judge(target, data)] += 1
        except Finding as found:
            kind = str(found)[:100]
            kinds[kind] = kinds.get(kind, 0) + 1
            if kinds[kind] == 1 and len(kinds) <= _MOST_KEPT:
                (folder / f"seed-{seed}-case-{cases}").write_bytes(data)
                print(f"case {cases}: {found}", file=sys.stderr, flush=True)
    taken = time.monotonic() - started
    return {
        "target": target.name,
        "engine": "random",
        "seed": seed,
        "cases": cases,
        "seconds": round(taken, 1),
        "cases_per_second": round(cases / taken, 1),
        "findings": sum(kinds.values()),
        "outcomes": dict(outcomes.most_common()),
    }


if __name__ == "__main__":
    name, seconds, seed, folder = sys.argv[1:]
    print(json.dumps(run(TARGETS[name], float(seconds), int(seed), Path(folder))))

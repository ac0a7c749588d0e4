"""The long form: `python -m tests.chaos --seed 1 --kills 20 --output chaos.json`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.chaos.campaign import Campaign, carry_out


def main() -> int:
    """Exit status 1 if anything that must hold did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of all schedules")
    parser.add_argument("--kills", type=int, default=20, help="actors, and as many drivers, to kill in all")
    parser.add_argument("--output", type=Path, help="JSON document of what happened")
    parser.add_argument("--folder", type=Path, help="for datasets and logs; those of a failure stay in it")
    options = parser.parse_args()
    campaign = Campaign(
        options.seed,
        options.kills,
        {"kill-actor": 5, "kill-driver": 5, "kill-raylet": 1, "pause-actor": 1, "pause-driver": 1},
    )
    # Asked to end, it ends what it has started too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    report = {"machine": _machine(), **carry_out(campaign, folder, lambda line: print(line, flush=True))}
    text = json.dumps(report, indent=1)
    if options.output is not None:
        options.output.write_text(text + "\n")
    for failed in (run["failure"] for run in report["runs"] if "failure" in run):
        print(failed, file=sys.stderr)
    print(json.dumps({name: report[name] for name in ("seed", "result", "faults", "recovery_seconds", "seconds")}))
    return 0 if report["result"] == "ok" else 1


def _machine() -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("ray", "torch", "pyarrow", "obstore")},
    }


if __name__ == "__main__":
    sys.exit(main())

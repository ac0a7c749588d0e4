"""The long form: every target for minutes, each in a process of its own, so that a crash of one ends no other.

    python -m tests.fuzz --minutes 30 [--target NAME ...] [--engine random|atheris] [--seed N]

The minutes are shared by the targets. Prints one line of JSON a target: cases, how many a second, what came of them.
A case that must not be is kept, with its target's name, below --keep; make it a golden file when it is mended
(tests/golden/fuzzed). Exit status: 1 if there is any.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.all_targets import TARGETS
from tests.fuzz.campaign import LAST_CASE


def main() -> int:
    options = _options()
    names = options.target or list(TARGETS)
    seconds = 60 * options.minutes / len(names)
    results = [_run(name, seconds, options) for name in names]
    return 1 if any(result["findings"] for result in results) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz everything that reads.")
    parser.add_argument("--minutes", type=float, default=30.0, help="for all targets together")
    parser.add_argument("--target", nargs="*", choices=sorted(TARGETS), help="default: all")
    parser.add_argument("--engine", choices=("random", "atheris"), default="random", help="atheris: the extra `fuzz`")
    parser.add_argument("--seed", type=int, default=None, help="of the random engine; default: the time")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder for cases that must not be")
    options = parser.parse_args()
    if options.engine == "atheris" and find_spec("atheris") is None:
        # Every target would end with an error, which is what a finding looks like from here.
        parser.error("atheris is not installed: pip install -e '.[fuzz]'")
    return options


def _run(name: str, seconds: float, options: argparse.Namespace) -> dict[str, object]:
    seed = int(time.time()) if options.seed is None else options.seed
    folder = options.keep / name
    module = "tests.fuzz.campaign" if options.engine == "random" else "tests.fuzz.guided"
    arguments = [name, str(seconds), str(seed), str(folder)]
    # Arrow's and torch's threads would only take cores from other targets.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    result: dict[str, object] = json.loads(lines[-1]) if lines else {"target": name, "findings": 1}
    if done.returncode != 0:
        # It died, or was ended for hanging: the case is the one it was at.
        result |= {"findings": 1, "exit": done.returncode, "case": str(folder / LAST_CASE)}
    print(json.dumps(result), flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())

"""Sections for the tests of the runner of `benchmarks.gpu`: each ends in another way."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from benchmarks.gpu.result import Goal
from benchmarks.gpu.section import Context


def passes(context: Context) -> None:
    context.result.check("one is one", held=True, found="1")
    context.result.goals.append(Goal("speed", 3.0, "3.00 ×", 4.0))
    context.result.note("All is well.")


def finds_wrong_values(context: Context) -> None:
    context.result.check("values are equal", held=True, found="0 differ")
    context.result.check("values are close", held=False, found="error 0.7")


def raises(context: Context) -> None:
    context.result.note("So far.")
    raise RuntimeError("planted fault")


def checks_nothing(context: Context) -> None:
    context.result.note("Nothing was checked.")


def dies(context: Context) -> None:
    print("before the end", flush=True)
    os._exit(7)


def dies_after_its_work(context: Context) -> None:
    passes(context)
    # As a library might when the process ends: the section's document says "passed" by then.
    import atexit

    atexit.register(lambda: os._exit(9))


def never_ends(context: Context) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (context.output / "child.pid").write_text(str(child.pid))
    context.result.check("the first of two", held=True, found="yes")
    time.sleep(600)

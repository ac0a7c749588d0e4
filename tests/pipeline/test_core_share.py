"""Workers' cores: each its own, given back by death, left alone where there are not enough."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pipeline.core_share import pin_to_own_cores

WORKER = """
import os, sys, threading
from pathlib import Path
from pipeline.core_share import pin_to_own_cores
waiting = threading.Event()
earlier = threading.Thread(target=waiting.wait, daemon=True)
earlier.start()
cores = pin_to_own_cores(int(sys.argv[2]), Path(sys.argv[1]))
found = []
later = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
later.start()
later.join()
print(sorted(cores), sorted(os.sched_getaffinity(0)), sorted(os.sched_getaffinity(earlier.native_id)), sorted(found[0]))
sys.stdout.flush()
sys.stdin.read()
"""


def start(folder: Path, num_cores: int) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), str(num_cores)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_each_has_its_own_until_it_dies(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    first, second = start(tmp_path, 1), start(tmp_path, len(cores) - 1)
    others = cores[1:]
    assert first[1] == f"{cores[:1]} {cores[:1]} {cores[:1]} {cores[:1]}"
    assert second[1] == (f"{others} {others} {others} {others}" if others else f"[] {cores} {cores} {cores}")
    third = start(tmp_path, 1)
    assert third[1] == f"[] {cores} {cores} {cores}"
    first[0].kill()
    first[0].wait()
    fourth = start(tmp_path, 1)
    assert fourth[1] == first[1]
    for process, _ in (second, third, fourth):
        process.kill()
        process.wait()


def test_too_few_cores_change_nothing(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    assert pin_to_own_cores(len(before) + 1, tmp_path) == ()
    assert os.sched_getaffinity(0) == before
    # And what was locked on the way is free again.
    process, line = start(tmp_path, len(before))
    assert line.startswith(str(sorted(before)))
    process.kill()
    process.wait()


def test_without_room_for_locks_nothing_is_changed(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    assert pin_to_own_cores(1, tmp_path / "not" / "there") == ()
    full = tmp_path / "full"
    full.mkdir()
    for core in before:
        # What cannot be opened for writing, also by root.
        (full / str(core)).mkdir()
    assert pin_to_own_cores(1, full) == ()
    assert os.sched_getaffinity(0) == before

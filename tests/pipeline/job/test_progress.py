"""What a person sees of a job: the right figures, on a terminal of any width, in a pipe, and through odd names."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.counters import Counters
from pipeline.job.event_text import event_line
from pipeline.job.events import (
    Stopping,
    Straggler,
    Tick,
    UnitDone,
    UnitFailed,
    UnitFailure,
    UnitRetried,
    UnitStarted,
    WaitingForWorkers,
    WorkerBootFailed,
    WorkerLost,
    WorkerProgress,
    WorkerReady,
)
from pipeline.job.progress import Progress
from pipeline.live import LiveFigures

SHARD = Counters(num_captions=600, num_tokens=30_000, num_padded_tokens=40_000)


class Job:
    """A progress display fed by hand, with a clock that is set by hand."""

    def __init__(self, stream: Any, **options: Any) -> None:
        self.seconds = 1000.0
        self.progress = Progress(10, 4, stream=stream, clock=lambda: self.seconds, **options)

    def after(self, seconds: float, *events: Any) -> str:
        self.seconds += seconds
        for event in events:
            self.progress.on_event(event)
        self.progress.on_event(Tick(2, 0, 2))
        return self.progress.line()


def done(unit: str) -> UnitDone:
    return UnitDone(unit, 1, 0, 1.0, SimpleNamespace(counters=SHARD))


def test_figures_and_time_left() -> None:
    job = Job(io.StringIO())
    assert job.after(5) == (
        "[0:00:05] 4/14 shards (4 before) | 0 captions/s | 0 tokens/s | padding 0% | 2 workers | 0 failed"
        " | waiting for workers"
    )
    assert job.after(5, WorkerReady(0, {}, 5.0)).endswith("| 2 workers | 0 failed | time left unknown yet")
    # The ten seconds before a worker was there are in no rate.
    line = job.after(10, WorkerProgress(0, LiveFigures({"a": SHARD})))
    assert "| 60 captions/s | 3,000 tokens/s | padding 25% |" in line
    line = job.after(10, done("a"))
    assert line.startswith("[0:00:30] 5/14 shards (4 before) | 30 captions/s | 1,500 tokens/s |")
    assert line.endswith("about 0:03:00 left")
    line = job.after(0, UnitFailed(UnitFailure("b", 3, ("x", "x", "y")), 0, ""))
    assert "| 1 failed | about 0:01:20 left" in line
    line = job.after(0, *[done(str(number)) for number in range(8)])
    assert line.startswith("[0:00:30] 13/14 shards")
    assert line.endswith("1 failed | finished")


def test_images_have_a_rate_of_their_own() -> None:
    images = Counters(num_images=300)
    job = Job(io.StringIO())
    job.after(0, WorkerReady(0, {}, 1.0))
    assert "| 30 images/s | 2 workers |" in job.after(10, WorkerProgress(0, LiveFigures({"a": images}))), (
        "and captions none"
    )
    line = job.after(10, WorkerProgress(0, LiveFigures({"a": images + SHARD})))
    assert "| 30 captions/s | 1,500 tokens/s | padding 25% | 15 images/s |" in line


def test_the_models_rate_and_the_devices_share() -> None:
    job = Job(io.StringIO())
    job.after(0, WorkerReady(0, {}, 1.0))
    figures = Counters(num_captions=10, num_tokens=100, num_padded_tokens=100, flops=6e13, device_seconds=12.0)
    # Two workers, ten seconds: 20 seconds of devices, of which 12 were used.
    assert "| 6.0 TFLOP/s | busy 60% | 2 workers" in job.after(10, WorkerProgress(0, LiveFigures({"a": figures})))
    assert "| 18.0 GFLOP/s |" in job.after(
        0, WorkerProgress(0, LiveFigures({"a": Counters(num_captions=1, flops=1.8e11, device_seconds=1.0)}))
    )


def test_rates_are_of_the_last_minute() -> None:
    job = Job(io.StringIO())
    job.after(0, WorkerReady(0, {}, 5.0))
    for number in range(100):
        job.after(1, done(str(number)))
    assert "| 600 captions/s |" in job.progress.line()
    for _ in range(30):
        job.after(1)
    assert "| 300 captions/s |" in job.progress.line()
    for _ in range(60):
        job.after(1)
    assert "| 0 captions/s |" in job.progress.line()


def test_a_failed_attempt_takes_its_figures_back() -> None:
    job = Job(io.StringIO())
    job.after(1, WorkerReady(0, {}, 5.0))
    job.after(1, WorkerProgress(0, LiveFigures({"a": SHARD})))
    line = job.after(1, UnitRetried("a", 1, 0, "ValueError: x", True, ""))
    assert "| 0 captions/s |" in line


def test_a_line_now_and_then_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    job = Job(stream, log_every_seconds=10)
    with job.progress:
        for _ in range(25):
            job.after(1)
    lines = stream.getvalue().splitlines()
    assert [line.split("]")[0] for line in lines] == ["[0:00:10", "[0:00:20", "[0:00:25"]
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (UnitStarted("a", 1, 0), None),
        (Tick(1, 0, 1), None),
        (done("a"), None),
        (WorkerReady(3, {"device": "cpu"}, 12.3), "worker 3 is ready on cpu after 12 s"),
        (WorkerReady(3, {"warning": None}, 1.0), "worker 3 is ready after 1 s"),
        (WorkerReady(3, {"warning": "node7 is slow"}, 1.0), "worker 3 is ready after 1 s; node7 is slow"),
        (WorkerBootFailed(1, "x", 1, 2.0), "worker 1 did not start (again in 2 s): x"),
        (WorkerBootFailed(1, "x", 5, None), "worker 1 did not start (its place is given up): x"),
        (WorkerLost(1, "died"), "worker 1 is lost and will be replaced: died"),
        (
            WaitingForWorkers(30.2, {"CPU": 8, "GPU": 1, "memory": 3e9}, {"CPU": 0.5}),
            "no worker is ready after 30 s; the cluster has 8 CPU, 1 GPU, free 0.5 CPU, 0 GPU",
        ),
        (
            UnitRetried("a/b", 1, 0, "E: one\n  two", True, "long"),
            "shard a/b: attempt 1 failed, will be tried again: E: one two",
        ),
        (UnitFailed(UnitFailure("a", 3, ("x", "y", "z")), 0, ""), "shard a: given up after 3 attempts: z"),
        (
            Straggler("a", 2, 100.0, 9.6),
            "shard a: straggling on worker 2, 100 s so far where 10 s are usual",
        ),
        (Stopping("SIGTERM", 2), "stopping: SIGTERM; 2 shards in flight may finish"),
        (WorkerLost(1, "x" * 1000), "worker 1 is lost and will be replaced: " + "x" * 297 + "..."),
        (
            UnitFailed(UnitFailure("\x1b[2J\udcff", 1, ("z",)), 0, ""),
            r"shard \x1b[2J\udcff: given up after 1 attempts: z",
        ),
    ],
)
def test_events_in_words(event: Any, expected: str | None) -> None:
    assert event_line(event) == expected


def test_a_stream_that_cannot_show_a_name_or_is_closed_ends_no_job() -> None:
    raw = io.BytesIO()
    job = Job(io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    job.after(1, WorkerLost(1, "café"))
    assert rb"caf\xe9" in raw.getvalue()
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    job = Job(stream)
    with job.progress:
        job.after(1, WorkerLost(1, "x"))
    with pytest.raises(BrokenPipeError):
        stream.close()


_DRAWN = """
import time
from pipeline.counters import Counters
from pipeline.job.events import Tick, WorkerProgress, WorkerLost, WorkerReady
from pipeline.job.progress import Progress
from pipeline.live import LiveFigures
with Progress(6, 3) as progress:
    progress.on_event(WorkerReady(0, {"device": "cpu"}, 1.2))
    done = Counters(num_captions=1200, num_tokens=30000, num_padded_tokens=60000)
    progress.on_event(WorkerProgress(0, LiveFigures({"u": done})))
    progress.on_event(WorkerLost(0, "[red]not markup[/red]"))
    time.sleep(0.7)
"""


@pytest.mark.parametrize("columns", [100, 20])
def test_the_live_display_fits_the_terminal(repository: Path, columns: int) -> None:
    control, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"TERM": "xterm", "PYTHONPATH": str(repository)}
    with subprocess.Popen([sys.executable, "-c", _DRAWN], stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        drawn = b""
        while True:
            try:
                drawn += os.read(control, 65536)
            except OSError:  # What the end of a terminal is on Linux.
                break
    os.close(control)
    assert process.returncode == 0, drawn.decode()
    # The last picture, without what colours it and what moves the cursor.
    picture = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.decode().split("\x1b[2K")[-1])
    lines = [line for line in picture.replace("\r", "").splitlines() if line]
    assert all(len(line) <= columns for line in lines)
    assert "3/9 shards" in lines[0]
    assert "captions/s" in lines[1]
    assert ("padding 50%" in lines[1]) == (columns == 100)
    assert "[red]not markup[/red]" in drawn.decode().replace("\r\n", "")

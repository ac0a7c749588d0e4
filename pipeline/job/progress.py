"""What a person sees while a job runs: a live bar on a terminal, otherwise a line now and then.

    [0:01:10] 12/40 shards | 1,234 captions/s | 45,678 tokens/s | padding 2% | 310.0 TFLOP/s | busy 97% | ...

Rates are over the last minute and count shards in flight, so that a job of few, long shards shows life. The time left
is guessed from the shards finished. Things worth knowing (a worker lost, a shard tried again or given up, a straggler)
have a line of their own in both.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.counters import Counters
from pipeline.job.event_text import event_line
from pipeline.job.events import Event, Tick, UnitDone, UnitFailed, UnitRetried, WorkerLost, WorkerProgress, WorkerReady
from pipeline.job.worker_figures import WorkerFigures

_RATE_WINDOW_SECONDS = 60.0
_SHOWN_WORKERS = 8


class Progress:
    """Shows a job's events, as a context manager around the loop.

    Args:
        num_units: Shards this run has to do.
        num_done_before: Shards that were done when it began; shown, but in no rate.
        stream: Where to write; a live bar if it is a terminal.
        log_every_seconds: Time between lines where there is no live bar.
        clock: Seconds that only go up.
    """

    def __init__(
        self,
        num_units: int,
        num_done_before: int = 0,
        *,
        stream: TextIO | None = None,
        log_every_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_units = num_units
        self._num_done_before = num_done_before
        self._stream = sys.stdout if stream is None else stream
        self._log_every_seconds = log_every_seconds
        self._clock = clock
        self._lock = threading.Lock()  # The live bar is drawn by a thread of its own.
        self._finished = Counters()
        self._in_flight: dict[str, Counters] = {}
        self._workers: dict[int, WorkerFigures] = {}
        self._num_done = self._num_failed = self._num_workers = 0
        self._began = self._last_log = clock()
        self._first_ready: float | None = None
        self._history: deque[tuple[float, Counters]] = deque([(self._began, Counters())])
        self._live = self._new_live()

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        else:
            self._print(self.line())

    def on_event(self, event: Event) -> None:
        """Takes an event of the loop."""
        with self._lock:
            self._note(event)
        text = event_line(event)
        if text is not None:
            self._print(text)
        if isinstance(event, Tick) and self._live is None:
            now = self._clock()
            if now - self._last_log >= self._log_every_seconds:
                self._last_log = now
                self._print(self.line())

    def line(self) -> str:
        """How the job stands, on one line."""
        with self._lock:
            elapsed = _duration(self._clock() - self._began)
            return f"[{elapsed}] {' | '.join([self._share_text(), *self._figures(), self._left_text()])}"

    def _note(self, event: Event) -> None:
        now = self._clock()
        if isinstance(event, Tick):
            self._num_workers = event.num_ready
        elif isinstance(event, WorkerReady):
            self._num_workers += 1
            self._first_ready = self._first_ready or now
            self._workers[event.worker] = WorkerFigures(now)
        elif isinstance(event, WorkerLost):
            self._workers.pop(event.worker, None)
        elif isinstance(event, WorkerProgress):
            self._in_flight.update(event.figures.counters)
            self._worker(event.worker, now).progressed(event.figures)
        elif isinstance(event, UnitDone):
            self._ended(event.unit, event.worker, now, event.result.counters)
            self._finished += event.result.counters
            self._num_done += 1
        elif isinstance(event, UnitRetried):
            self._ended(event.unit, event.worker, now, None)
        elif isinstance(event, UnitFailed):
            self._ended(event.failure.unit, event.worker, now, None)
            self._num_failed += 1
        if not isinstance(event, Tick):
            return
        for worker in self._workers.values():
            worker.tick(now)
        self._history.append((now, self._so_far()))
        # The oldest kept is the newest that is a whole window old: there is always one to compare with.
        while len(self._history) > 1 and now - self._history[1][0] >= _RATE_WINDOW_SECONDS:
            self._history.popleft()

    def _ended(self, unit: str, worker: int, now: float, counters: Counters | None) -> None:
        self._in_flight.pop(unit, None)
        self._worker(worker, now).ended(unit, counters)

    def _worker(self, number: int, now: float) -> WorkerFigures:
        return self._workers.setdefault(number, WorkerFigures(now))

    def _so_far(self) -> Counters:
        return sum(self._in_flight.values(), self._finished)

    def _figures(self) -> list[str]:
        (since, before), now = self._history[0], self._so_far()
        seconds = max(1e-9, self._clock() - max(since, self._first_ready or since))

        def rate(field: str) -> float:
            # An attempt that fails takes its figures back.
            return max(0.0, getattr(now, field) - getattr(before, field)) / seconds

        figures = []
        if now.num_captions or not now.num_images:
            padding = f"padding {now.padding_share:.0%}"
            figures += [f"{rate('num_captions'):,.0f} captions/s", f"{rate('num_tokens'):,.0f} tokens/s", padding]
        if now.num_images:
            figures.append(f"{rate('num_images'):,.0f} images/s")
        if now.flops:
            figures.append(_flops(rate("flops")))
        if now.device_seconds:
            figures.append(f"busy {_share(rate('device_seconds') / max(1, self._num_workers))}")
        return [*figures, f"{self._num_workers} workers", f"{self._num_failed} failed"]

    def _share_text(self) -> str:
        before = f" ({self._num_done_before:,} before)" if self._num_done_before else ""
        total = self._num_done_before + self._num_units
        return f"{self._num_done_before + self._num_done:,}/{total:,} shards{before}"

    def _left_text(self) -> str:
        ended = self._num_done + self._num_failed
        if self._num_units == ended:
            return "finished"
        if self._first_ready is None:
            return "waiting for workers"
        if ended == 0:
            return "time left unknown yet"
        seconds = (self._clock() - self._first_ready) / ended * (self._num_units - ended)
        return f"about {_duration(seconds)} left"

    def _new_live(self) -> Live | None:
        console = Console(file=self._stream)
        if not console.is_terminal or console.is_dumb_terminal:
            return None
        return Live(console=console, get_renderable=self._picture, refresh_per_second=2)

    def _picture(self) -> RenderableType:
        with self._lock:
            elapsed = _duration(self._clock() - self._began)
            total = max(1, self._num_done_before + self._num_units)
            bar = ProgressBar(total, self._num_done_before + self._num_done)
            row = Table.grid(padding=(0, 1), expand=True)
            row.add_column(ratio=1)
            row.add_column(no_wrap=True)
            row.add_row(bar, self._share_text())
            figures = Text(" | ".join(self._figures()), overflow="ellipsis", no_wrap=True)
            return Group(row, figures, self._worker_table(), Text(f"{elapsed} so far | {self._left_text()}"))

    def _worker_table(self) -> Table:
        """The slowest workers first, as many as are readable."""
        table = Table.grid(padding=(0, 2))
        for _ in range(6):
            table.add_column(no_wrap=True, overflow="ellipsis")
        busy = [(number, worker) for number, worker in self._workers.items() if worker.is_busy]
        slowest = sorted(busy, key=lambda item: (item[1].rate("num_captions"), item[0]))
        for number, worker in slowest[:_SHOWN_WORKERS]:
            table.add_row(
                f"worker {number}",
                f"{worker.rate('num_captions'):,.0f} captions/s",
                _flops(worker.rate("flops")),
                f"busy {_share(worker.rate('device_seconds'))}",
                f"waits for {worker.bottleneck}" if worker.bottleneck else "",
                worker.queues,
            )
        if len(slowest) > _SHOWN_WORKERS:
            table.add_row(f"and {len(slowest) - _SHOWN_WORKERS} faster ones")
        return table

    def _print(self, text: str) -> None:
        """A line that cannot fail: a closed pipe or a name no terminal can show must not end a job."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        with contextlib.suppress(OSError):
            if self._live is not None:
                self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=self._stream, flush=True)


def _flops(rate: float) -> str:
    """`1.25e13` as `12.5 TFLOP/s`."""
    return f"{rate / 1e12:,.1f} TFLOP/s" if rate >= 1e11 else f"{rate / 1e9:,.1f} GFLOP/s"


def _share(share: float) -> str:
    """Of a time that was measured elsewhere: the clocks differ a little."""
    return f"{min(1.0, share):.0%}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(max(0.0, seconds))))

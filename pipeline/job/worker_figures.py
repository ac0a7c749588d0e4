"""Figures of one worker over the last while, from what it tells now and then."""

from __future__ import annotations

from collections import Counter, deque

from pipeline.counters import Counters
from pipeline.live import LiveFigures

_WINDOW_SECONDS = 60.0


class WorkerFigures:
    """Rates and bottleneck of a worker.

    Args:
        now: When it was first heard of.
    """

    def __init__(self, now: float) -> None:
        self._finished = Counters()
        self._live = LiveFigures({})
        self._history: deque[tuple[float, Counters, str | None]] = deque([(now, Counters(), None)])

    def progressed(self, figures: LiveFigures) -> None:
        """It has told of the units at hand."""
        self._live = figures

    def ended(self, unit: str, counters: Counters | None) -> None:
        """A unit has ended: with these totals, or in vain."""
        self._finished += counters or Counters()
        left = {name: figures for name, figures in self._live.counters.items() if name != unit}
        self._live = LiveFigures(left, self._live.queues if left else {})

    def tick(self, now: float) -> None:
        """Notes how it stands."""
        bottleneck = self._live.bottleneck if self.is_busy else None
        self._history.append((now, self._total, bottleneck))
        # The oldest kept is the newest that is a whole window old: there is always one to compare with.
        while len(self._history) > 2 and now - self._history[1][0] >= _WINDOW_SECONDS:
            self._history.popleft()

    def rate(self, field: str) -> float:
        """A counter's growth a second."""
        (since, before, _), (now, after, _) = self._history[0], self._history[-1]
        # An attempt that fails takes its figures back.
        return max(0.0, getattr(after, field) - getattr(before, field)) / max(1e-9, now - since)

    @property
    def is_busy(self) -> bool:
        """Whether it was last heard of with a unit at hand."""
        return bool(self._live.counters)

    @property
    def queues(self) -> str:
        """As text: `tokenize 1/1 encode 0/1`."""
        depths = sorted(self._live.queues.items(), key=lambda item: item[0], reverse=True)
        return " ".join(f"{name} {depth.waiting}/{depth.room}" for name, depth in depths)

    @property
    def bottleneck(self) -> str:
        """The stage that was most often waited for; empty if it had nothing to do."""
        seen = Counter(stage for _, _, stage in self._history if stage is not None)
        return seen.most_common(1)[0][0] if seen else ""

    @property
    def _total(self) -> Counters:
        return sum(self._live.counters.values(), self._finished)

"""Which unit is next, and how often each has been tried.

Untouched units come first, in their order; a unit whose attempt failed comes back after all of them, and goes to a
worker that has not failed on it before, as long as one lives. Memory grows with the failures, not with the units:
those may be a lazy iterable of any length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from pipeline.job.events import UnitFailure

_RETRIES_LOOKED_AT = 64
"""A worker looks at this many waiting retries for one it has not failed on: enough to find one, and O(1)."""


@dataclass
class _History:
    """What a unit that failed at least once has been through."""

    reasons: list[str] = field(default_factory=list)
    num_counted: int = 0
    workers: set[int] = field(default_factory=set)


class UnitQueue:
    """Units to do and the attempts they have used.

    Args:
        units: Ids, each once.
        max_attempts: A unit is given up after this many failed attempts.
        max_lost_attempts: A unit is also given up after this many attempts, failed or lost with their node.
    """

    def __init__(self, units: Iterable[str], max_attempts: int, max_lost_attempts: int) -> None:
        self._source = iter(units)
        self._peeked: deque[str] = deque()
        self._retries: deque[str] = deque()
        self._histories: dict[str, _History] = {}
        self._max_attempts = max_attempts
        self._max_lost_attempts = max_lost_attempts

    def num_waiting(self, limit: int) -> int:
        """How many units wait, counted up to `limit`."""
        while len(self._peeked) + len(self._retries) < limit:
            unit = next(self._source, None)
            if unit is None:
                break
            self._peeked.append(unit)
        return min(limit, len(self._peeked) + len(self._retries))

    def take(self, worker: int, live_workers: Collection[int]) -> tuple[str, int] | None:
        """The next unit for a worker and the number of its attempt, or None if there is none for this one now."""
        unit = self._peeked.popleft() if self._peeked else next(self._source, None)
        if unit is not None:
            return unit, 1
        for position in range(min(len(self._retries), _RETRIES_LOOKED_AT)):
            unit = self._retries[position]
            history = self._histories[unit]
            if worker not in history.workers or history.workers.issuperset(live_workers):
                del self._retries[position]
                return unit, len(history.reasons) + 1
        return None

    def take_untouched(self, num_left: int) -> str | None:
        """The next unit that was never tried, or None if it would leave fewer than `num_left` of them."""
        while len(self._peeked) <= num_left:
            unit = next(self._source, None)
            if unit is None:
                return None
            self._peeked.append(unit)
        return self._peeked.popleft()

    def fail(self, unit: str, worker: int, reason: str, *, counted: bool) -> UnitFailure | None:
        """Notes a failed attempt.

        Args:
            counted: False if the attempt was lost with its node.

        Returns:
            The failure if the unit is given up with this attempt; None if it waits for another.
        """
        history = self._histories.setdefault(unit, _History())
        history.reasons.append(reason)
        history.num_counted += counted
        if counted:
            history.workers.add(worker)
        if history.num_counted < self._max_attempts and len(history.reasons) < self._max_lost_attempts:
            self._retries.append(unit)
            return None
        del self._histories[unit]
        return UnitFailure(unit, len(history.reasons), tuple(history.reasons))

    def forget(self, unit: str) -> None:
        """A unit is done."""
        self._histories.pop(unit, None)

    def drain(self) -> tuple[list[str], list[str]]:
        """All that is left: units never given to a worker, and units that waited for another attempt."""
        untouched, retries = [*self._peeked, *self._source], list(self._retries)
        self._peeked.clear()
        self._retries.clear()
        return untouched, retries

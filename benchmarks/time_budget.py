"""The time that a run of a benchmark may take."""

from __future__ import annotations

import math
import time


class TimeBudget:
    """Time that a run may take, from now on.

    Args:
        seconds: Of it; infinity: no bound.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self._started = time.perf_counter()
        self.seconds = seconds

    @property
    def left(self) -> float:
        """Seconds left; negative once it is over."""
        return self.seconds - (time.perf_counter() - self._started)

    @property
    def share_left(self) -> float:
        """Of all of it; 1 without a bound."""
        return 1.0 if math.isinf(self.seconds) else self.left / self.seconds

"""A bound on bytes, shared by threads."""

from __future__ import annotations

import threading
from collections.abc import Callable


class MemoryBudget:
    """Counts bytes that are held, and makes whoever wants more wait.

    Args:
        num_bytes: The bound.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.used_bytes = 0
        self.peak_bytes = 0
        # Reentrant: bytes are given back by finalizers, which run wherever the last reference goes.
        self._changed = threading.Condition(threading.RLock())

    def acquire(self, num_bytes: int, must: Callable[[], bool]) -> None:
        """Waits for room.

        Args:
            num_bytes: Bytes wanted.
            must: Asked whenever something changes; True takes the bytes whatever the bound, as nothing would ever be
                given back otherwise.
        """
        with self._changed:
            while self.used_bytes + num_bytes > self.num_bytes and not must():
                self._changed.wait()
            self.used_bytes += num_bytes
            self.peak_bytes = max(self.peak_bytes, self.used_bytes)

    def release(self, num_bytes: int) -> None:
        """Gives bytes back."""
        with self._changed:
            self.used_bytes -= num_bytes
            self._changed.notify_all()

    def wake(self) -> None:
        """Has everybody who waits ask again."""
        with self._changed:
            self._changed.notify_all()

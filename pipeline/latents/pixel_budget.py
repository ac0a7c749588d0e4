"""A bound on the pixels decoded at the same time, so that memory does not depend on the number of threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class PixelBudget:
    """Lets threads in as long as their pixels together stay within the budget; always one, whatever its size.

    Args:
        max_pixels: The budget. A pixel being decoded takes some 3 to 12 bytes.
    """

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._in_use = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, num_pixels: int) -> Iterator[None]:
        """Waits until so many pixels may be decoded too."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in_use or self._in_use + num_pixels <= self._max_pixels)
            self._in_use += num_pixels
        try:
            yield
        finally:
            with self._changed:
                self._in_use -= num_pixels
                self._changed.notify_all()

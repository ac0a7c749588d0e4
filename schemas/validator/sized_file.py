"""A read-only file object over something of known size that answers ranges."""

from __future__ import annotations

import io
from abc import abstractmethod


class SizedFile(io.RawIOBase):
    """Keeps the position; what stands between two positions is the subclass's to say.

    Args:
        num_bytes: Size of the file.
    """

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self._position = 0

    @abstractmethod
    def range(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, both inside the file, `start < stop`."""

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, fewer only at the end; all that are left if negative."""
        stop = self._num_bytes if size < 0 else min(self._position + size, self._num_bytes)
        if stop <= self._position:
            return b""
        start, self._position = self._position, stop
        return self.range(start, stop)

"""Threads for calls that may never return."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

_Calls = queue.SimpleQueue[Callable[[], None]]


class SpareThreads:
    """Daemon threads, as many as calls are under way; one that is stuck is not waited for, another takes its place.

    A thread that has finished is used again, as starting one costs more than waking one, and ends when it has had
    nothing to do for a while. No thread keeps the process from ending.

    Args:
        name: Begins the threads' names.
        idle_seconds: How long a thread waits for another call.
    """

    def __init__(self, name: str, idle_seconds: float = 5.0) -> None:
        self._name = name
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._idle: list[_Calls] = []

    def run(self, call: Callable[[], None]) -> None:
        """Has a thread make a call, which must not raise; does not wait for it."""
        with self._lock:
            calls = self._idle.pop() if self._idle else None
        if calls is None:
            calls = queue.SimpleQueue()
            threading.Thread(target=self._work, args=(calls,), name=self._name, daemon=True).start()
        calls.put(call)

    def _work(self, calls: _Calls) -> None:
        while True:
            try:
                call = calls.get(timeout=self._idle_seconds)
            except queue.Empty:
                with self._lock:
                    if calls in self._idle:
                        self._idle.remove(calls)
                        return
                # It was taken off the list a moment ago: a call is on its way.
                continue
            call()
            # A thread that waits for work must not keep the last result alive.
            del call
            with self._lock:
                self._idle.append(calls)

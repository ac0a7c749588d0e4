"""What several threads want at the same time is fetched once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

_T = TypeVar("_T")


class SingleFlight(Generic[_T]):
    """Calls by name, at most one of each under way. Nothing is kept once a call has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[str, Future[_T]] = {}

    def call(self, name: str, fetch: Callable[[], _T]) -> _T:
        """Returns what `fetch` returns, of this thread or of one that has been at it already.

        Raises:
            What `fetch` raises, in every thread that waits for it. `fetch` must end, whatever happens.
        """
        with self._lock:
            flight = self._flights.get(name)
            leads = flight is None
            if flight is None:
                flight = self._flights[name] = Future()
        if not leads:
            return flight.result()
        try:
            found = fetch()
        except BaseException as error:
            self._end(name)
            flight.set_exception(error)
            raise
        self._end(name)
        flight.set_result(found)
        return found

    def _end(self, name: str) -> None:
        with self._lock:
            del self._flights[name]

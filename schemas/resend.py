"""Requests whose connection broke, made again.

obstore repeats what a store refuses for the moment; of broken connections only those of requests it knows to be
idempotent, and no body that was cut short.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from obstore.exceptions import GenericError

T = TypeVar("T")

# A store that is down for a minute must not end a job of days; obstore's own default gives up after about 3 s.
RETRY: Any = {
    # Each pause is drawn from between the first and `base` times the one before: with a base of 2 they hardly grow, and
    # in two of five cases sixty of them are over within a minute; with 4, in none of thousands.
    "max_retries": 60,
    "retry_timeout": timedelta(minutes=5),
    "backoff": {"base": 4, "init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=15)},
}
"""For obstore itself."""

_BROKEN = ("error sending request", "request or response body error", "error decoding response body")
_SECONDS = 60.0
_MOST = 8


def resend(request: Callable[[], T]) -> T:
    """Makes a request that may be made twice, up to nine times within a minute.

    Raises:
        BaseError: As the request does, after the last time or for another reason than a broken connection.
    """
    pauses = _Pauses()
    while True:
        try:
            return request()
        except GenericError as error:
            pauses.take(error)


def resume(pages: Callable[[str | None], Iterator[T]], name: Callable[[T], str]) -> Iterator[T]:
    """A listing that goes on after the last item it has given, as often as `resend` repeats a request.

    Args:
        pages: The items, in the order of their names, behind one of them.
        name: Of an item.

    Raises:
        BaseError: As `resend`.
    """
    pauses, last = _Pauses(), None
    while True:
        try:
            for item in pages(last):
                last = name(item)
                yield item
                pauses = _Pauses()
            return
        except GenericError as error:
            pauses.take(error)


class _Pauses:
    """Between the attempts at one request."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._number = 0

    def take(self, error: GenericError) -> None:
        """Waits for a while, or raises the error: no connection broke, or this has gone on for long enough."""
        # What obstore has repeated for minutes is not repeated here.
        is_over = self._number == _MOST or time.monotonic() - self._began > _SECONDS
        if is_over or not any(sign in str(error) for sign in _BROKEN):
            raise error
        time.sleep(0.1 * 2**self._number)
        self._number += 1

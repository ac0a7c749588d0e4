"""Requests whose connection broke, made again: obstore itself repeats only those it knows to be idempotent."""

from __future__ import annotations

import time
from collections.abc import Callable

from obstore.exceptions import GenericError

_BROKEN = ("error sending request", "request or response body error")
_SECONDS = 60.0
_MOST = 8


def resend(request: Callable[[], object]) -> None:
    """Makes a request that may be made twice, up to nine times within a minute.

    Raises:
        BaseError: As the request does, after the last time or for another reason than a broken connection.
    """
    began = time.monotonic()
    for number in range(_MOST):
        try:
            request()
            return
        except GenericError as error:
            # What obstore has repeated for minutes is not repeated here.
            if not any(sign in str(error) for sign in _BROKEN) or time.monotonic() - began > _SECONDS:
                raise
        time.sleep(0.1 * 2**number)
    request()

"""Being asked to stop: SIGTERM (a scheduler, torchrun) and Ctrl-C end a run after the step, with a checkpoint."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Whether the run was asked to stop."""

    def __init__(self) -> None:
        self.requested = False


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Notes the first signal; the second has its usual effect, at once."""
    request = StopRequest()
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in signals}

    def note(_: int, __: FrameType | None) -> None:
        request.requested = True
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in signals:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()

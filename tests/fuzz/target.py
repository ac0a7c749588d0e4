"""What a target of the fuzzer is, and how one of its cases is judged."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import pyarrow as pa

from schemas.errors import EncodeOnceError

MAX_SECONDS = 10.0
"""A case that takes longer hangs. Honest objects of these sizes take milliseconds."""

MAX_MEMORY_BYTES = 256 * 1024**2
"""More memory than that, for objects of some kilobytes, is a bomb that went off."""


class Finding(AssertionError):
    """What a target must not do."""


@dataclass(frozen=True)
class Target:
    """Something that reads.

    Attributes:
        name: For the command line.
        make: Draws a case: the bytes that are read.
        read: Reads them; returns in a word what came of it. May raise EncodeOnceError, and nothing else.
        in_ci: Cases of the short form.
    """

    name: str
    make: Callable[[Random], bytes]
    read: Callable[[bytes], str]
    in_ci: int


def judge(target: Target, data: bytes) -> str:
    """Reads one case.

    Returns:
        What came of it: the code of an error, or a word of the target's.

    Raises:
        Finding: Another exception, more than `MAX_SECONDS` seconds, or more than `MAX_MEMORY_BYTES`.
    """
    before, started = _memory(), time.monotonic()
    try:
        with _limited():
            outcome = target.read(data)
    except EncodeOnceError as error:
        str(error)
        outcome = error.code
    except Finding:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise Finding(f"{target.name}: {type(error).__name__}: {str(error)[:300]}") from error
    seconds, grown = time.monotonic() - started, _memory() - before
    if seconds > MAX_SECONDS:
        raise Finding(f"{target.name}: {seconds:.1f} s")
    if grown > MAX_MEMORY_BYTES:
        raise Finding(f"{target.name}: {grown / 1e6:.0f} MB for {len(data)} bytes")
    return outcome


def _memory() -> int:
    """The most memory that was in use so far: of the process, or by Arrow's account, whichever grew."""
    arrow: int = pa.default_memory_pool().max_memory()
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, arrow)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Ends a case that hangs: by an exception, and where that cannot be raised by the end of the process."""

    def expired(*_: object) -> None:
        raise Finding(f"still running after {MAX_SECONDS:g} s")

    previous = signal.signal(signal.SIGALRM, expired)
    # pytest's own limit uses the same timer.
    running = signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    faulthandler.dump_traceback_later(6 * MAX_SECONDS, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        signal.setitimer(signal.ITIMER_REAL, *running)
        gc.collect(0)

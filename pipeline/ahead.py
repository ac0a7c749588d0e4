"""The one way stages overlap: an iterable is worked through in a thread of its own, a bounded distance ahead.

Stages are plain generators that pull from one another; putting `ahead` around one lets it work while its consumer does.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True)
class _Failure:
    error: BaseException


_END = object()


def ahead(items: Iterable[T], depth: int, name: str) -> Generator[T, None, None]:
    """Yields what `items` yields, made in a background thread.

    Args:
        items: Consumed in the thread only. A generator is closed there when the consumer stops early.
        depth: How many items may exist at once, the one the consumer works on and the one being made included; so it
            bounds memory. 1 means no overlap.
        name: Thread name, for stack dumps.

    Raises:
        Whatever `items` raises, at the place where its next item would have been.
    """
    slots = threading.Semaphore(depth)
    out: queue.SimpleQueue[object] = queue.SimpleQueue()
    stopped = threading.Event()
    worker = threading.Thread(target=_produce, args=(iter(items), slots, out, stopped), name=name, daemon=True)
    worker.start()
    try:
        while True:
            item = out.get()
            if item is _END:
                return
            if isinstance(item, _Failure):
                raise item.error
            assert isinstance(item, _Item)
            yield item.value
            # Only now is the consumer done with it; drop our own reference before the slot is given away.
            del item
            slots.release()
    finally:
        stopped.set()
        slots.release()
        worker.join()


def _produce(
    items: Iterator[T], slots: threading.Semaphore, out: queue.SimpleQueue[object], stopped: threading.Event
) -> None:
    with closing(items) if isinstance(items, Generator) else nullcontext():
        try:
            while True:
                slots.acquire()
                if stopped.is_set():
                    return
                try:
                    item = next(items)
                except StopIteration:
                    out.put(_END)
                    return
                out.put(_Item(item))
                del item
        except BaseException as error:
            # Whatever it is, it is the consumer's to deal with.
            out.put(_Failure(error))

"""Background prefetch: an iterable is consumed in another thread, a bounded number of items ahead of its consumer.

Stages are plain generators that pull from one another; putting `ahead` around one lets it work while its consumer does.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from pipeline.device_thread import DeviceThread

T = TypeVar("T")


@dataclass(frozen=True)
class QueueDepth:
    """How full the queue after a stage is.

    Attributes:
        waiting: Items that are made and not taken.
        room: Items that can wait there; 1 or more.
    """

    waiting: int
    room: int


class Queues:
    """The queues between the stages of a worker, as far as they exist at the moment; other threads may look."""

    def __init__(self) -> None:
        self._queues: list[tuple[str, queue.SimpleQueue[object], int]] = []

    def depths(self) -> dict[str, QueueDepth]:
        """By the name of the stage before it, in no order; two shards' queues of one name are added up."""
        depths: dict[str, QueueDepth] = {}
        for name, items, room in list(self._queues):
            before = depths.get(name, QueueDepth(0, 0))
            depths[name] = QueueDepth(before.waiting + min(items.qsize(), room), before.room + room)
        return depths

    @contextmanager
    def watch(self, name: str, items: queue.SimpleQueue[object], room: int) -> Iterator[None]:
        """Counts a queue among them for a while."""
        watched = (name, items, room)
        self._queues.append(watched)
        try:
            yield
        finally:
            self._queues.remove(watched)


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True)
class _Failure:
    error: BaseException


_END = object()


def ahead(
    items: Iterable[T], depth: int, name: str, queues: Queues | None = None, thread: DeviceThread | None = None
) -> Generator[T, None, None]:
    """Yields what `items` yields, made in a background thread.

    Args:
        items: Consumed in the thread only. A generator is closed there when the consumer stops early.
        depth: How many items may exist at once, the one the consumer works on and the one being made included; so it
            bounds memory. 1 means no overlap.
        name: Of the queue, and of the thread if it is a new one.
        queues: Where people can see how full the queue is.
        thread: Consumes the items, from the first to the last, when it has finished what was submitted to it before.
            None: a new thread.

    Raises:
        Whatever `items` raises, at the place where its next item would have been.
    """
    slots = threading.Semaphore(depth)
    out: queue.SimpleQueue[object] = queue.SimpleQueue()
    stopped = threading.Event()
    worker = _Worker(partial(_produce, iter(items), slots, out, stopped), name, thread)
    try:
        with nullcontext() if queues is None else queues.watch(name, out, max(1, depth - 1)):
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


class _Worker:
    """A call in a new thread, or in one that others use too."""

    def __init__(self, function: Callable[[], None], name: str, thread: DeviceThread | None) -> None:
        self._future: Future[None] | None = None
        if thread is not None:
            self._future = thread.submit(function)
        else:
            self._thread = threading.Thread(target=function, name=name, daemon=True)
            self._thread.start()

    def join(self) -> None:
        """Waits until the call has ended, unless it waits for the thread: then it will not be made."""
        if self._future is None:
            self._thread.join()
        elif not self._future.cancel():
            wait([self._future])


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

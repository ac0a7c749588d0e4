"""The one way stages overlap: an iterable is worked through in a thread of its own, a bounded distance ahead.

Stages are plain generators that pull from one another; putting `ahead` around one lets it work while its consumer does.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

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


def ahead(items: Iterable[T], depth: int, name: str, queues: Queues | None = None) -> Generator[T, None, None]:
    """Yields what `items` yields, made in a background thread.

    Args:
        items: Consumed in the thread only. A generator is closed there when the consumer stops early.
        depth: How many items may exist at once, the one the consumer works on and the one being made included; so it
            bounds memory. 1 means no overlap.
        name: Thread name, for stack dumps, and the queue's name.
        queues: Where people can see how full the queue is.

    Raises:
        Whatever `items` raises, at the place where its next item would have been.
    """
    slots = threading.Semaphore(depth)
    out: queue.SimpleQueue[object] = queue.SimpleQueue()
    stopped = threading.Event()
    worker = threading.Thread(target=_produce, args=(iter(items), slots, out, stopped), name=name, daemon=True)
    worker.start()
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

"""Runs everything that a worker computes on its device in one thread, for as long as the worker lives.

torch keeps cuDNN's plans, caches of compiled kernels and, on a CPU, a pool of OpenMP threads for each thread that
computes: a new thread for every shard would build them again.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Task = tuple[Future[Any], Callable[[], Any]]


class DeviceThread:
    """A thread that runs tasks one after the other, in the order in which they were submitted.

    It is a daemon, so that a task that hangs does not keep the process from ending; the threads of
    `concurrent.futures.ThreadPoolExecutor` do. It ends when nobody refers to this object any more.
    """

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        threading.Thread(target=_work, args=(self._tasks,), name="device", daemon=True).start()
        weakref.finalize(self, self._tasks.put, None)

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queues a call. It can be cancelled until it begins."""
        future: Future[T] = Future()
        self._tasks.put((future, lambda: function(*args, **kwargs)))
        return future


def _work(tasks: queue.SimpleQueue[_Task | None]) -> None:
    while (task := tasks.get()) is not None:
        _run(*task)
        # While it waits for the next one, the thread must not hold what the last one worked on.
        del task


def _run(future: Future[Any], function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
        # The error refers to this frame, and the future to the error.
        del future, function

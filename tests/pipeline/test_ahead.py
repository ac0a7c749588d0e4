"""Stages in threads: order, bounded memory, errors and early ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from pipeline.ahead import Queues, ahead


def test_order_is_kept_and_all_arrive() -> None:
    assert list(ahead(iter(range(1000)), 3, "t")) == list(range(1000))
    assert list(ahead([], 1, "t")) == []


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_at_most_depth_items_exist_at_once(depth: int) -> None:
    alive = 0
    highest = 0
    lock = threading.Lock()

    class Item:
        def __init__(self) -> None:
            nonlocal alive, highest
            with lock:
                alive += 1
                highest = max(highest, alive)

        def __del__(self) -> None:
            nonlocal alive
            with lock:
                alive -= 1

    def items() -> Iterator[Item]:
        for _ in range(30):
            yield Item()

    for item in ahead(items(), depth, "t"):
        time.sleep(0.002)
        del item
    assert highest == depth


def test_the_producer_works_while_the_consumer_does() -> None:
    made = [threading.Event() for _ in range(5)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    for number in ahead(items(), 2, "t"):
        assert number == 4 or made[number + 1].wait(60), "the producer waits for the consumer"


def test_an_error_arrives_where_its_item_would_have() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the third")

    numbers = ahead(failing(), 2, "t")
    assert [next(numbers), next(numbers)] == [1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(numbers)


def test_a_consumer_that_stops_closes_the_producer() -> None:
    closed_in: list[str] = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed_in.append(threading.current_thread().name)

    with closing(ahead(endless(), 2, "stage")) as numbers:
        assert next(numbers) == 1
    assert closed_in == ["stage"]
    assert "stage" not in [thread.name for thread in threading.enumerate()]


def test_stages_nest() -> None:
    doubled = (2 * number for number in ahead(range(100), 2, "a"))
    assert sum(ahead(doubled, 2, "b")) == 9900


def test_people_can_see_what_waits() -> None:
    queues, made = Queues(), threading.Semaphore(0)

    def items() -> Iterator[int]:
        for number in range(3):
            yield number
            made.release()

    assert queues.depths() == {}
    with closing(ahead(items(), 3, "numbers", queues)) as out:
        assert next(out) == 0
        for _ in range(2):
            made.acquire()
        # One is the consumer's, and one of the two that may wait was just made.
        deadline = time.monotonic() + 100
        while queues.depths()["numbers"].waiting < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert queues.depths()["numbers"].room == 2
        assert 1 <= queues.depths()["numbers"].waiting <= 2
        assert [*out] == [1, 2]
    assert queues.depths() == {}

"""One worker's figures: rates over the last minute, units that end or fail, and what is waited for."""

from __future__ import annotations

import pytest

from pipeline.ahead import QueueDepth
from pipeline.counters import Counters
from pipeline.job.worker_figures import WorkerFigures
from pipeline.live import LiveFigures


def depths(tokenize: int, encode: int) -> dict[str, QueueDepth]:
    return {"tokenize": QueueDepth(tokenize, 1), "encode": QueueDepth(encode, 1)}


@pytest.mark.parametrize(
    ("tokenize", "encode", "expected"),
    [(0, 0, "reading"), (1, 0, "encoding"), (0, 1, "writing"), (1, 1, "writing")],
)
def test_the_last_stage_with_work_before_it_is_waited_for(tokenize: int, encode: int, expected: str) -> None:
    assert LiveFigures({}, depths(tokenize, encode)).bottleneck == expected


def test_images_have_their_own_stages() -> None:
    assert LiveFigures({}, {"images": QueueDepth(1, 1), "latents": QueueDepth(0, 1)}).bottleneck == "encoding"
    assert LiveFigures({}, {"images": QueueDepth(0, 1), "latents": QueueDepth(1, 1)}).bottleneck == "writing"


def test_what_is_waited_for_most_often_counts() -> None:
    worker = WorkerFigures(0.0)
    assert worker.bottleneck == ""
    for second, state in enumerate([(1, 0), (0, 1), (1, 0), (0, 0)], start=1):
        worker.progressed(LiveFigures({"a": Counters()}, depths(*state)))
        worker.tick(float(second))
    assert worker.bottleneck == "encoding"
    assert worker.queues == "tokenize 0/1 encode 0/1"
    worker.ended("a", Counters())
    assert (worker.is_busy, worker.queues) == (False, "")


def test_rates_go_on_over_units_and_forget_after_a_minute() -> None:
    worker = WorkerFigures(0.0)
    worker.progressed(LiveFigures({"a": Counters(num_captions=50)}))
    worker.tick(5.0)
    assert worker.rate("num_captions") == 10
    worker.ended("a", Counters(num_captions=100))
    worker.progressed(LiveFigures({"b": Counters(num_captions=20)}))
    worker.tick(10.0)
    assert worker.rate("num_captions") == 12
    # An attempt that failed: what it did is gone, and the rate is not negative.
    worker.ended("b", None)
    worker.tick(10.5)
    assert worker.rate("num_captions") == pytest.approx(100 / 10.5)
    for second in range(11, 80):
        worker.tick(float(second))
    assert worker.rate("num_captions") == 0


def test_of_two_units_in_hand_one_ends() -> None:
    worker = WorkerFigures(0.0)
    waiting = depths(1, 0)
    worker.progressed(LiveFigures({"a": Counters(num_captions=50), "b": Counters(num_captions=30)}, waiting))
    worker.ended("a", Counters(num_captions=60))
    worker.tick(10.0)
    assert worker.rate("num_captions") == 9
    assert (worker.is_busy, worker.queues) == (True, "tokenize 1/1 encode 0/1")

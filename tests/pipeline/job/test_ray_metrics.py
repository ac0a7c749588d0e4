"""Ray metrics: every counter grows by what was done, and by nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.ahead import QueueDepth
from pipeline.counters import Counters
from pipeline.job import ray_metrics
from pipeline.job.ray_metrics import COUNTERS, QUEUE_WAITING, RayMetrics


class Metric:
    """Stands in for Ray's, whose values only its agent sees."""

    made: dict[str, Metric] = {}  # noqa: RUF012

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...] = ()) -> None:
        assert description.endswith(".")
        self.values: dict[Any, float] = {}
        self.tag_keys = tag_keys
        self.made[name] = self

    def inc(self, value: float) -> None:
        assert value > 0, "Ray refuses others"
        self.values[None] = self.values.get(None, 0.0) + value

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self.tag_keys)
        self.values[tuple(tags.values())] = value


def test_counters_add_up_and_gauges_show(monkeypatch: pytest.MonkeyPatch) -> None:
    Metric.made.clear()
    monkeypatch.setattr(ray_metrics.metrics, "Counter", Metric)
    monkeypatch.setattr(ray_metrics.metrics, "Gauge", Metric)
    shown = RayMetrics()
    shown.add(Counters(num_captions=3, flops=1e9))
    shown.add(Counters(num_captions=4, num_bytes=100))
    shown.show({"tokenize": QueueDepth(1, 1), "encode": QueueDepth(0, 1)})
    values = {name: metric.values for name, metric in Metric.made.items()}
    assert values["encode_once_captions_total"] == {None: 7}
    assert values["encode_once_model_flops_total"] == {None: 1e9}
    assert values["encode_once_stored_bytes_total"] == {None: 100}
    assert values["encode_once_images_total"] == {}
    assert values[QUEUE_WAITING] == {("tokenize",): 1, ("encode",): 0}
    assert len(values) == len(COUNTERS) + 1

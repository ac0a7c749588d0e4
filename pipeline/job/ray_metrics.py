"""A worker's figures as Ray metrics, for Prometheus: counters grow with every window, gauges say how it stands."""

from __future__ import annotations

import dataclasses

from ray.util import metrics

from pipeline.ahead import QueueDepth
from pipeline.counters import Counters

COUNTERS = {
    "num_captions": ("encode_once_captions_total", "Captions encoded, repeats included."),
    "num_images": ("encode_once_images_total", "Images encoded."),
    "num_rejects": ("encode_once_rejects_total", "Inputs that could not be encoded."),
    "num_tokens": ("encode_once_tokens_total", "Real tokens computed, all encoders."),
    "num_padded_tokens": ("encode_once_padded_tokens_total", "Tokens computed with padding, all encoders."),
    "num_bytes": ("encode_once_stored_bytes_total", "Bytes stored."),
    "flops": ("encode_once_model_flops_total", "Floating-point operations of the models."),
    "device_seconds": ("encode_once_device_busy_seconds_total", "Seconds the device was busy with the encoders."),
}
"""By field of `Counters`: name and description."""
QUEUE_WAITING = "encode_once_queue_waiting"


class RayMetrics:
    """Of this process, which is a Ray worker."""

    def __init__(self) -> None:
        self._counters = {field: metrics.Counter(name, description=text) for field, (name, text) in COUNTERS.items()}
        self._waiting = metrics.Gauge(
            QUEUE_WAITING, description="Items that wait after a stage of the worker.", tag_keys=("stage",)
        )

    def add(self, counters: Counters) -> None:
        """What was done since the last call."""
        for field, counter in self._counters.items():
            value = getattr(counters, field)
            if value > 0:
                counter.inc(float(value))

    def show(self, depths: dict[str, QueueDepth]) -> None:
        """How full the queues are."""
        for stage, depth in depths.items():
            self._waiting.set(depth.waiting, tags={"stage": stage})


assert set(COUNTERS) <= {field.name for field in dataclasses.fields(Counters)}

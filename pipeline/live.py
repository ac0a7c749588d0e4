"""What a worker tells about itself while it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.ahead import QueueDepth
from pipeline.counters import Counters

Bottleneck = Literal["reading", "encoding", "writing"]

_AFTER: dict[str, Bottleneck] = {
    "encode": "writing",
    "latents": "writing",
    "tokenize": "encoding",
    "images": "encoding",
}
"""The stage that takes from each queue, by the name of the stage that fills it; later stages first."""


@dataclass(frozen=True)
class LiveFigures:
    """Of the shards at hand.

    Attributes:
        counters: What was done of each, by shard.
        queues: How full the queues between the stages are.
    """

    counters: Mapping[str, Counters]
    queues: Mapping[str, QueueDepth] = field(default_factory=dict)

    @property
    def bottleneck(self) -> Bottleneck:
        """The stage that the others wait for: the last one that has work waiting before it, or the first."""
        for name, stage in _AFTER.items():
            found = self.queues.get(name)
            if found is not None and found.waiting:
                return stage
        return "reading"

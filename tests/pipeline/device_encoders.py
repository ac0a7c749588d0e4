"""Encoders on the stream checker's device: each tower is one kernel, computed on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from pipeline.encoders import EncoderOutput, TextEncoder
from pipeline.encoders.packed import PackedTokens
from pipeline.transfer import side_stream
from tests.stream_checker import DEVICE, StreamChecker, checked_streams


class _OneKernel(nn.Module):
    def __init__(self, checker: StreamChecker, name: str, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.operations = tower.operations
        self._checker = checker
        self._name = name

    def forward(self, packed: PackedTokens) -> EncoderOutput:
        output = self._checker.kernel(self._name, self.tower, packed)
        assert isinstance(output, EncoderOutput)
        return output


def on_device(encoders: dict[str, TextEncoder], checker: StreamChecker) -> dict[str, TextEncoder]:
    """The same encoders, as they would be on a GPU."""
    found = {name: copy.copy(encoder) for name, encoder in encoders.items()}
    for name, encoder in found.items():
        encoder.device, encoder.tower = DEVICE, _OneKernel(checker, name, encoder.tower)
    return found


@contextmanager
def checked_device() -> Iterator[StreamChecker]:
    """`checked_streams` for code that keeps a side stream for each device."""
    side_stream.cache_clear()
    try:
        with checked_streams() as checker:
            yield checker
    finally:
        side_stream.cache_clear()

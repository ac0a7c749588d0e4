"""Compiled pointwise functions: the same values, one graph for all sizes, and the function itself where that fails."""

from __future__ import annotations

import logging

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from pipeline.encoders import compiled as module
from pipeline.encoders.compiled import compiled
from pipeline.encoders.t5_tower import gated_by


def gate(both: torch.Tensor) -> torch.Tensor:
    return gated_by(torch.nn.functional.gelu)(both)


def test_one_graph_for_all_numbers_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    counter, original = CompileCounter(), torch.compile
    monkeypatch.setattr(
        module.torch, "compile", lambda function, **options: original(function, backend=counter, **options)
    )
    fast = compiled(gate, torch.randn(64, 32), always=True)
    for rows in (2, 64, 100, 1024):
        inputs = torch.randn(rows, 32)
        with torch.inference_mode():
            torch.testing.assert_close(fast(inputs), gate(inputs))
    assert counter.frame_count == 1


def test_what_cannot_be_compiled_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(function: object, **_: object) -> object:
        def call(_: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no C compiler")

        return call

    monkeypatch.setattr(module.torch, "compile", failing)
    with caplog.at_level(logging.WARNING):
        assert compiled(gate, torch.randn(64, 32), always=True) is gate
    assert "no C compiler" in caplog.text


def test_the_processor_is_left_alone() -> None:
    assert compiled(gate, torch.randn(64, 32)) is gate

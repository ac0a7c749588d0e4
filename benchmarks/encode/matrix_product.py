"""Sustained rate of the bare matrix product: what a device can do at most; the benchmarks divide by it."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from benchmarks.encode.sizes import Size
from benchmarks.encode.timing import synchronize


def product_rates(size: Size, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Sustained FLOP/s of each of the four products of a T5 layer, by shape."""
    tower, rows = size.towers["t5"], size.product_tokens
    shapes = [
        (tower.width, 3 * tower.width),
        (tower.width, tower.width),
        (tower.width, 2 * tower.inner),
        (tower.inner, tower.width),
    ]
    return {
        f"{rows} x {inner} x {outer}": product_rate(rows, inner, outer, size.product_seconds, device, dtype)
        for inner, outer in shapes
    }


@torch.inference_mode()
def product_rate(rows: int, inner: int, outer: int, seconds: float, device: torch.device, dtype: torch.dtype) -> float:
    """Sustained FLOP/s of a linear layer: the mean over some seconds, and so at the clock that the device keeps up.

    Args:
        rows: Of the input, [rows, inner]. Its values are random: products of zeros take less power, and a GPU runs
            faster then.
        inner: Channels of the input.
        outer: Channels of the output.
        seconds: At least so long.
        device: Where.
        dtype: Of input, weight and output.
    """
    generator = torch.Generator(device).manual_seed(0)
    inputs = torch.randn(rows, inner, device=device, generator=generator).to(dtype)
    weight = torch.randn(outer, inner, device=device, generator=generator).to(dtype)
    for _ in range(3):
        F.linear(inputs, weight)
    synchronize(device)
    started, count = time.perf_counter(), 0
    while (taken := time.perf_counter() - started) < seconds:
        for _ in range(10):
            F.linear(inputs, weight)
        synchronize(device)
        count += 10
    return 2.0 * rows * inner * outer * count / taken

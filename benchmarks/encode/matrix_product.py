"""The bare matrix product: what the device can do at most, with the shapes of T5's layers."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from benchmarks.encode.sizes import Size
from benchmarks.encode.timing import synchronize


def product_rates(size: Size, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s of each of the four products of a T5 layer, by shape, kept up for some time.

    Random inputs: products of zeros take less power, and a GPU runs faster then.
    """
    tower, rows = size.towers["t5"], size.product_tokens
    shapes = [
        (tower.width, 3 * tower.width),
        (tower.width, tower.width),
        (tower.width, 2 * tower.inner),
        (tower.inner, tower.width),
    ]
    return {
        f"{rows} x {inner} x {outer}": _rate(rows, inner, outer, size.product_seconds, device, dtype)
        for inner, outer in shapes
    }


@torch.inference_mode()
def _rate(rows: int, inner: int, outer: int, seconds: float, device: torch.device, dtype: torch.dtype) -> float:
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

"""Measures a loader, whichever it is: samples a second, processor time a sample, and what is in its batches."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

_SKIPPED_BATCHES = 12
"""At the start of a measurement and of an epoch: what workers had made ready meanwhile."""


@dataclass(frozen=True)
class Batch:
    """At most `batch_size` samples.

    Attributes:
        keys: One a sample.
        prompt_embeds: bfloat16 [samples, 154, 4096], valid until the next batch is asked for; None where a measurement
            ends before the tensors are assembled.
        pooled_prompt_embeds: bfloat16 [samples, 2048].
        num_samples: Samples.
    """

    keys: list[str]
    prompt_embeds: torch.Tensor | None
    pooled_prompt_embeds: torch.Tensor | None
    num_samples: int


Batches = Iterator[Batch | None]
"""None stands between two epochs of a loader that cannot go on without a pause: the clock is stopped there."""


def measure(batches: Iterable[Batch | None], warmup_seconds: float, seconds: float) -> dict[str, float]:
    """Reads batches as fast as they come.

    Returns:
        `samples_per_second`, and `cpu_ms_per_sample`: processor time of this process and its workers.

    Raises:
        RuntimeError: There were not enough batches.
    """
    begun = time.perf_counter()
    skipped = counted = num_samples = 0
    elapsed = cpu = 0.0
    last = begun
    since: tuple[float, float] | None = None
    for batch in batches:
        now = time.perf_counter()
        if since is None:
            skipped = 0 if batch is None else skipped + 1
            if skipped >= _SKIPPED_BATCHES and now - begun >= warmup_seconds:
                since, last = (now, _cpu_seconds()), now
            continue
        if batch is not None:
            counted += batch.num_samples
            last = now
        if batch is None or elapsed + now - since[0] >= seconds:
            # What counts ends with the last batch that came.
            num_samples, elapsed, cpu = (
                num_samples + counted,
                elapsed + last - since[0],
                cpu + _cpu_seconds() - since[1],
            )
            skipped = counted = 0
            since = None
        if elapsed >= seconds:
            break
    if elapsed < seconds:
        raise RuntimeError("the loader came to its end before it could be measured")
    return {"samples_per_second": num_samples / elapsed, "cpu_ms_per_sample": 1e3 * cpu / num_samples}


def digests(batches: Iterable[Batch | None]) -> dict[str, str]:
    """By key, a digest of what a loader assembles.

    Raises:
        RuntimeError: A key came twice.
    """
    found: dict[str, str] = {}
    for batch in batches:
        if batch is None:
            continue
        assert batch.prompt_embeds is not None
        assert batch.pooled_prompt_embeds is not None
        for index, key in enumerate(batch.keys):
            if key in found:
                raise RuntimeError(f"{key} came twice in an epoch")
            found[key] = digest(batch.prompt_embeds[index], batch.pooled_prompt_embeds[index])
    return found


def digest(context: torch.Tensor, pooled: torch.Tensor) -> str:
    """Of one sample's assembled tensors, bfloat16."""
    total = hashlib.sha256()
    for tensor in (context, pooled):
        assert tensor.dtype == torch.bfloat16
        total.update(tensor.contiguous().view(torch.int16).numpy().data)
    return total.hexdigest()[:16]


def _cpu_seconds() -> float:
    """Processor time of this process and all below it, those that have ended not counted."""
    ticks, pending = 0, [os.getpid()]
    while pending:
        process = Path("/proc") / str(pending.pop())
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            children = [task.read_text() for task in process.glob("task/*/children")]
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
        pending += [int(child) for line in children for child in line.split()]
    return ticks / os.sysconf("SC_CLK_TCK")

"""litdata: binary chunks, bfloat16 as bytes; not compressed, which would be slower."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming import Cache

from benchmarks.loader import values
from benchmarks.loader.meter import Batch, Batches
from benchmarks.loader.peers.assembly import Sample, collate, from_workers
from benchmarks.loader.peers.documented import WORKERS, float16_arrays, join

OPTIONS: list[dict[str, Any]] = [{"workers": 0}, {"workers": 2}, {"workers": 3}]

DOCUMENTED = WORKERS

_CHUNK_BYTES = 64 * 1024**2


def write(folder: Path, samples: values.Bits) -> None:
    """Twice, values packed as bytes and tensors of float16, in chunks of the size that its documentation uses."""
    packed, tensors = (Cache(str(folder / name), chunk_bytes=_CHUNK_BYTES) for name in ("packed", "tensors"))
    for index, bits in enumerate(samples):
        about = {"key": values.key(index), "caption": values.caption(index)}
        packed[index] = about | {"values": bits[: values.NUM_VALUES].tobytes()}
        # It writes a tensor by way of NumPy, which has no bfloat16.
        tensors[index] = about | {name: torch.from_numpy(array) for name, array in float16_arrays(bits).items()}
    for cache in (packed, tensors):
        cache.done()
        cache.merge()


def batches(folder: Path, batch_size: int, *, once: bool, workers: int = 0) -> Batches:
    """Its own shuffle and loader. The clock stands still between two epochs."""
    dataset = StreamingDataset(str(folder / "packed"), shuffle=True, drop_last=False, transform=_sample)
    loader = StreamingDataLoader(
        dataset, batch_size=batch_size, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0
    )
    return _epochs(lambda: from_workers(loader), once=once)


def documented_batches(folder: Path, batch_size: int, *, once: bool, workers: int) -> Batches:
    """Tensors in its own loader."""
    dataset = StreamingDataset(str(folder / "tensors"), shuffle=True, drop_last=False)
    loader = StreamingDataLoader(dataset, batch_size=batch_size, num_workers=workers, persistent_workers=workers > 0)
    return _epochs(lambda: join(loader), once=once)


def _epochs(epoch: Callable[[], Iterator[Batch]], *, once: bool) -> Batches:
    while True:
        yield from epoch()
        if once:
            return
        yield None


def _sample(found: dict[str, Any]) -> Sample:
    return found["key"], np.frombuffer(found["values"], np.uint16)

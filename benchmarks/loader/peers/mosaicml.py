"""mosaicml-streaming: MDS shards, bfloat16 as bytes; not compressed, which would be slower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from streaming import MDSWriter, StreamingDataset
from streaming.base.util import clean_stale_shared_memory

from benchmarks.loader import values
from benchmarks.loader.meter import Batches
from benchmarks.loader.peers.assembly import Sample, collate, fill_from, from_threads, from_workers, groups
from benchmarks.loader.peers.documented import FIELDS, WORKERS, float16_arrays, join

OPTIONS: list[dict[str, Any]] = [{"workers": 0}, {"workers": 2}, {"workers": 3}]

DOCUMENTED = WORKERS

_COLUMNS = {"key": "str", "caption": "str", "values": "bytes"}
_ARRAYS = {"key": "str", "caption": "str"} | {
    name: f"ndarray:float16:{','.join(map(str, values.SHAPES[name]))}" for name in FIELDS
}
_MANY_EPOCHS = 200


def write(folder: Path, samples: values.Bits) -> None:
    """Twice, values packed as bytes and arrays of float16, in shards of the default size."""
    with (
        MDSWriter(out=str(folder / "packed"), columns=_COLUMNS) as packed,
        MDSWriter(out=str(folder / "arrays"), columns=_ARRAYS) as arrays,
    ):
        for index, bits in enumerate(samples):
            about = {"key": values.key(index), "caption": values.caption(index)}
            packed.write(about | {"values": bits[: values.NUM_VALUES].tobytes()})
            arrays.write(about | float16_arrays(bits))


def batches(folder: Path, batch_size: int, *, once: bool, workers: int = 0) -> Batches:
    """Its default shuffle. One epoch of many times the samples, so that no pause between epochs is measured."""
    dataset = _open(_Samples, folder / "packed", batch_size, once=once)
    if workers == 0:
        return from_threads(groups(iter(dataset), batch_size), fill_from, batch_size, 0)
    return from_workers(
        torch.utils.data.DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=collate)
    )


def documented_batches(folder: Path, batch_size: int, *, once: bool, workers: int) -> Batches:
    """Arrays in torch's DataLoader."""
    dataset = _open(StreamingDataset, folder / "arrays", batch_size, once=once)
    return join(torch.utils.data.DataLoader(dataset, batch_size=batch_size, num_workers=workers))


def _open(kind: type[StreamingDataset], folder: Path, batch_size: int, *, once: bool) -> StreamingDataset:
    clean_stale_shared_memory()
    dataset = kind(local=str(folder), shuffle=True, batch_size=batch_size)
    if once:
        return dataset
    many = _MANY_EPOCHS * dataset.num_samples
    del dataset
    clean_stale_shared_memory()
    return kind(local=str(folder), shuffle=True, batch_size=batch_size, epoch_size=many)


class _Samples(StreamingDataset):
    def __getitem__(self, at: int) -> Sample:
        found = super().__getitem__(at)
        return found["key"], np.frombuffer(found["values"], np.uint16)

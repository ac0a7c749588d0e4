"""Hugging Face datasets: an Arrow table, mapped into memory, bfloat16 as binary."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch

from benchmarks.loader import values
from benchmarks.loader.meter import Batches
from benchmarks.loader.peers.assembly import (
    Sample,
    collate,
    fill_from,
    from_threads,
    from_workers,
    permutations,
)
from benchmarks.loader.peers.documented import FIELDS, WORKERS, EndlessOrder, float16_arrays, join

OPTIONS: list[dict[str, Any]] = [
    {"threads": 1},
    {"threads": 2},
    {"threads": 2, "gather": True},
    {"workers": 2},
    {"workers": 3},
]

DOCUMENTED = WORKERS

_PACKED = datasets.Features(
    {"key": datasets.Value("string"), "caption": datasets.Value("string"), "values": datasets.Value("large_binary")}
)
_ARRAYS = datasets.Features(
    {
        "key": datasets.Value("string"),
        "caption": datasets.Value("string"),
        **{
            name: datasets.Array2D(values.SHAPES[name], "float16")
            if len(values.SHAPES[name]) == 2
            else datasets.List(datasets.Value("float16"), values.SHAPES[name][0])
            for name in FIELDS
        },
    }
)


def write(folder: Path, samples: values.Bits) -> None:
    """Two tables with the library's own writer: values packed as bytes, and arrays of float16."""

    def packed_rows() -> Iterator[dict[str, Any]]:
        for index, bits in enumerate(samples):
            packed = bits[: values.NUM_VALUES].tobytes()
            yield {"key": values.key(index), "caption": values.caption(index), "values": packed}

    def array_rows() -> Iterator[dict[str, Any]]:
        for index, bits in enumerate(samples):
            yield {"key": values.key(index), "caption": values.caption(index), **float16_arrays(bits)}

    for name, rows, features in (("packed", packed_rows, _PACKED), ("arrays", array_rows, _ARRAYS)):
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            made = datasets.Dataset.from_generator(rows, features=features, cache_dir=cache, writer_batch_size=32)
            made.save_to_disk(str(folder / name), max_shard_size="512MB")


def documented_batches(folder: Path, batch_size: int, *, once: bool, workers: int) -> Batches:
    """Arrays in torch format in torch's DataLoader."""
    rows = datasets.load_from_disk(str(folder / "arrays")).remove_columns("caption").with_format("torch")
    order = EndlessOrder(len(rows), once=once)
    return join(torch.utils.data.DataLoader(rows, batch_size=batch_size, sampler=order, num_workers=workers))


def batches(
    folder: Path, batch_size: int, *, once: bool, threads: int = 0, workers: int = 0, gather: bool = False
) -> Batches:
    """Random access in an order shuffled over all rows, one row at a time or a batch at a time."""
    rows = _Rows(folder, gather=gather)
    wanted = permutations(len(rows), batch_size, once=once)
    if workers == 0:
        return from_threads(wanted, rows.fill, batch_size, threads)
    return from_workers(torch.utils.data.DataLoader(rows, batch_size=None, sampler=wanted, num_workers=workers))


class _Rows(torch.utils.data.Dataset):
    def __init__(self, folder: Path, *, gather: bool) -> None:
        # Arrow's own arrays: every other format copies the values into Python objects first.
        self._dataset = datasets.load_from_disk(str(folder / "packed")).with_format("arrow")
        self._gather = gather

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, indices: Sequence[int]) -> tuple[list[str], torch.Tensor, torch.Tensor]:
        return collate(self._samples(indices))

    def fill(self, indices: Sequence[int], context: torch.Tensor, pooled: torch.Tensor) -> list[str]:
        return fill_from(self._samples(indices), context, pooled)

    def _samples(self, indices: Sequence[int]) -> list[Sample]:
        if self._gather:
            return _unpacked(self._dataset[indices])
        return [sample for index in indices for sample in _unpacked(self._dataset[index])]


def _unpacked(table: pa.Table) -> list[Sample]:
    packed = [np.frombuffer(row.as_buffer(), np.uint16) for row in table.column("values")]
    return list(zip(table.column("key").to_pylist(), packed, strict=True))

"""webdataset: tars of one member a sample's values, bfloat16 as bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset

from benchmarks.loader import values
from benchmarks.loader.meter import Batches
from benchmarks.loader.peers.assembly import Sample, collate, fill_from, from_threads, from_workers, groups
from benchmarks.loader.peers.documented import FIELDS, WORKERS, float16_arrays, join

OPTIONS: list[dict[str, Any]] = [{"workers": 0}, {"workers": 2}, {"workers": 3}]
DOCUMENTED = WORKERS

_SHUFFLED = 100
_SHARD_ROWS = 128


def write(folder: Path, samples: values.Bits) -> None:
    """Twice, values packed as bytes and one .npy a tensor, in shards of 128 samples, 120 MB."""
    for name in ("packed", "arrays"):
        (folder / name).mkdir()
    with (
        webdataset.ShardWriter(str(folder / "packed/%05d.tar"), maxcount=_SHARD_ROWS, verbose=0) as packed,
        webdataset.ShardWriter(str(folder / "arrays/%05d.tar"), maxcount=_SHARD_ROWS, verbose=0) as arrays,
    ):
        for index, bits in enumerate(samples):
            about = {"__key__": values.key(index), "txt": values.caption(index)}
            packed.write(about | {"bf16": bits[: values.NUM_VALUES].tobytes()})
            arrays.write(about | {f"{field}.npy": array for field, array in float16_arrays(bits).items()})


def batches(folder: Path, batch_size: int, *, once: bool, workers: int = 0) -> Batches:
    """Shards in a shuffled order, then samples within a buffer of 100; epoch after epoch without a pause."""
    dataset = _open(folder / "packed", once=once).shuffle(_SHUFFLED).map(_sample)
    if workers == 0:
        return from_threads(groups(iter(dataset), batch_size), fill_from, batch_size, 0)
    # Batches are made by the workers, as its documentation advises.
    dataset = dataset.batched(batch_size, collation_fn=collate, partial=True)
    return from_workers(webdataset.WebLoader(dataset, batch_size=None, num_workers=workers))


def documented_batches(folder: Path, batch_size: int, *, once: bool, workers: int) -> Batches:
    """Arrays decoded, put into dictionaries and batched by its own pipeline."""
    dataset = _open(folder / "arrays", once=once).shuffle(_SHUFFLED).decode().map(_arrays)
    dataset = dataset.batched(batch_size, collation_fn=torch.utils.data.default_collate, partial=True)
    return join(webdataset.WebLoader(dataset, batch_size=None, num_workers=workers))


def _open(folder: Path, *, once: bool) -> webdataset.WebDataset:
    tars = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = webdataset.WebDataset(tars, shardshuffle=len(tars), empty_check=False, select_files=_wanted)
    return dataset if once else dataset.repeat()


def _wanted(name: str) -> bool:
    return name.endswith((".bf16", ".npy"))


def _arrays(found: dict[str, Any]) -> dict[str, Any]:
    return {"key": found["__key__"], **{field: found[f"{field}.npy"] for field in FIELDS}}


def _sample(found: dict[str, Any]) -> Sample:
    return found["__key__"], np.frombuffer(found["bf16"], np.uint16)

"""One uncompressed .npz a caption, float16: what most training scripts write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.loader import values
from benchmarks.loader.meter import Batches
from benchmarks.loader.peers.assembly import from_threads, from_workers, new_batch, permutations
from benchmarks.loader.peers.documented import FIELDS, WORKERS, EndlessOrder, float16_arrays, join

OPTIONS: list[dict[str, Any]] = [{"threads": 1}, {"threads": 2}, {"threads": 4}, {"workers": 2}]

DOCUMENTED = WORKERS
_CLIP_L = values.WIDTHS["clip_l"]


def write(folder: Path, samples: values.Bits) -> None:
    """Folders of 1,000 files."""
    for index, bits in enumerate(samples):
        path = _path(folder, index)
        path.parent.mkdir(exist_ok=True, parents=True)
        np.savez(path, **float16_arrays(bits))


def batches(folder: Path, batch_size: int, *, once: bool, threads: int = 0, workers: int = 0) -> Batches:
    """Threads or worker processes that read whole files, in an order shuffled over all files."""
    num_samples = sum(1 for _ in folder.glob("*/*.npz"))
    wanted = permutations(num_samples, batch_size, once=once)
    if workers == 0:

        def fill(indices: Sequence[int], context: torch.Tensor, pooled: torch.Tensor) -> list[str]:
            return _fill(folder, indices, context, pooled)

        return from_threads(wanted, fill, batch_size, threads)
    files = _Files(folder, num_samples)
    return from_workers(torch.utils.data.DataLoader(files, batch_size=None, sampler=wanted, num_workers=workers))


def documented_batches(folder: Path, batch_size: int, *, once: bool, workers: int) -> Batches:
    """A map-style dataset of files in torch's DataLoader."""
    files = _Tensors(folder)
    order = EndlessOrder(sum(1 for _ in folder.glob("*/*.npz")), once=once)
    return join(torch.utils.data.DataLoader(files, batch_size=batch_size, sampler=order, num_workers=workers))


class _Tensors(torch.utils.data.Dataset):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, index: int) -> dict[str, Any]:
        with np.load(_path(self._folder, index)) as file:
            return {"key": values.key(index), **{name: torch.from_numpy(file[name]) for name in FIELDS}}


class _Files(torch.utils.data.Dataset):
    def __init__(self, folder: Path, num_samples: int) -> None:
        self._folder = folder
        self._num_samples = num_samples

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, indices: Sequence[int]) -> tuple[list[str], torch.Tensor, torch.Tensor]:
        context, pooled = new_batch(len(indices))
        return _fill(self._folder, indices, context, pooled), context, pooled


def _fill(folder: Path, indices: Sequence[int], context: torch.Tensor, pooled: torch.Tensor) -> list[str]:
    for place, index in enumerate(indices):
        with np.load(_path(folder, index)) as file:
            # The copy converts float16 to bfloat16.
            context[place, : values.NUM_TOKENS, :_CLIP_L] = torch.from_numpy(file["clip_l"])
            context[place, : values.NUM_TOKENS, _CLIP_L : values.POOLED_WIDTH] = torch.from_numpy(file["clip_g"])
            context[place, values.NUM_TOKENS :] = torch.from_numpy(file["t5"])
            pooled[place, :_CLIP_L] = torch.from_numpy(file["clip_l_pooled"])
            pooled[place, _CLIP_L:] = torch.from_numpy(file["clip_g_pooled"])
    return [values.key(index) for index in indices]


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index // 1000:05d}" / f"{values.key(index)}.npz"

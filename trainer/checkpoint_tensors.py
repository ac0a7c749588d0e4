"""Tensors to and from a step folder, by torch.distributed.checkpoint (DCP) in its safetensors form.

DCP's default form keeps its metadata in a pickle, which can run code when it is read; this one has a header of JSON in
every file instead. It can hold tensors only, which is all that `trainer.checkpoint_state` gives it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter  # type: ignore[attr-defined]
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from schemas.errors import StorageError

# A rank's tensors are serialised file by file, each file for a moment a second time in memory.
_FILE_BYTES = 1024**3

# DCP would say so at every save and load of a run on one device.
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


def make_stager(tensors: Mapping[str, torch.Tensor]) -> BlockingAsyncStager:
    """Makes what `start_writing` copies tensors to host memory with; to be kept for all saves of a run.

    Tensors of a GPU are copied into page-locked memory that is allocated at the first save and used again by the later
    ones: copies then run at the speed of the bus, and no save waits for gigabytes of fresh pages. It takes as much host
    memory as a rank's state has, for as long as the run lasts. Tensors on the CPU are copied into ordinary memory that
    is freed once they are written.

    `BlockingAsyncStager` is the one stager that torch 2.11 and 2.15 have alike and that allocates nothing behind a
    later save; it returns when the copies are complete.
    """
    return BlockingAsyncStager(cache_staged_state_dict=any(tensor.is_cuda for tensor in tensors.values()))


def start_writing(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    stager: BlockingAsyncStager,
    *,
    other_names: Iterable[str] = (),
    group: ProcessGroup | None,
    world_size: int,
) -> Future[Any]:
    """Copies the tensors to host memory, then writes them in the background; collective.

    Args:
        folder: Made if need be.
        tensors: By name; DTensors are written by the ranks that hold their shards, others by one rank.
        stager: Of `make_stager`; the same names at every save. What it staged before must have been written.
        other_names: Names that only other ranks have tensors for.
        group: gloo group for the background; None for a single process.
        world_size: Ranks in the group.

    Returns:
        Done when every rank has written and fsynced its files; see `finish_writing`.
    """
    files = dict.fromkeys(other_names, 1)
    used = 0
    for name, tensor in tensors.items():
        files[name] = 1 + used // (_FILE_BYTES * world_size)
        used += tensor.numel() * tensor.element_size()
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=files, save_distributed=True)
    upload = async_save(
        dict(tensors), storage_writer=writer, process_group=group, no_dist=group is None, async_stager=stager
    )
    assert isinstance(upload, Future)
    return upload


def finish_writing(upload: Future[Any], folder: Path, rank: int) -> list[Path]:
    """Waits for `start_writing`.

    Returns:
        The files that this rank has written.

    Raises:
        StorageError: Some rank could not write; on all ranks.
    """
    try:
        upload.result()
    except CheckpointException as error:
        raise _explained(error, folder, "written") from error
    return sorted(folder.glob(f"shard-{rank + 1:05d}-*.safetensors"))


def read_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], *, group: ProcessGroup | None) -> None:
    """Fills the tensors in place, each rank the shards it holds; collective.

    Raises:
        StorageError: A tensor is missing or of another shape, or a file cannot be read; on all ranks.
    """
    reader = HuggingFaceStorageReader(str(folder))
    try:
        load(dict(tensors), storage_reader=reader, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        raise _explained(error, folder, "read") from error


def _explained(error: CheckpointException, folder: Path, done: str) -> StorageError:
    rank, (failure, _) = min(error.failures.items())
    return StorageError(
        "checkpoint-failed",
        where=f"{folder}, rank {rank}",
        expected=f"the checkpoint to be {done} by every rank",
        actual=f"{type(failure).__name__}: {failure}"[:2000],
        remedy="mend that, then run the same command again: it resumes from the latest complete checkpoint",
    )

"""`python -m tests.trainer.checkpoint_ranks_program FOLDER`: three ranks train with FSDP2 and save, then two resume.

Ranks are forked from this process, so that torch is imported once. Their shards are uneven, and some are empty. Their
state is staged as a GPU's is, in memory that two saves share; only it is not page-locked, for want of a GPU.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers.models import SD3Transformer2DModel
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.trainer.runs import State, checkpointer, small_model, start
from trainer import checkpoint


def model_with_a_single_row(seed: int) -> SD3Transformer2DModel:
    """One of its parameters has fewer rows than there are ranks."""
    model = small_model(seed)
    model.register_parameter("single", torch.nn.Parameter(torch.full((1, 5), float(seed))))
    return model


def sharded(seed: int) -> State:
    model = model_with_a_single_row(seed)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.transformer_blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return start(model)


def step(state: State) -> None:
    """The same on any number of ranks: no gradient depends on a rank's data."""
    torch.manual_seed(state.step)
    state.train()


def run(rank: int, world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.Tensor.pin_memory = lambda tensor: tensor  # type: ignore[assignment,misc] # needs a GPU
    checkpoint.make_stager = lambda _: BlockingAsyncStager(cache_staged_state_dict=True)
    rendezvous = folder / f"rendezvous-{world_size}"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    saver = checkpointer(folder)
    latest = saver.latest()
    state = sharded(seed=0 if latest is None else 1)
    if latest is not None:
        saver.load(latest, state)
    for _ in range(2):
        step(state)
        saver.save(state, state.step)
    # Collectives of training go on while the checkpoint is written.
    for _ in range(3):
        dist.all_reduce(torch.ones(1))
    saver.wait()
    dist.destroy_process_group()


def main(folder: Path) -> None:
    for world_size in (3, 2):
        children = []
        for rank in range(world_size):
            child = os.fork()
            if child == 0:
                run(rank, world_size, folder)
                os._exit(0)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * world_size


if __name__ == "__main__":
    main(Path(sys.argv[1]))

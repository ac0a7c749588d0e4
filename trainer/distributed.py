"""The processes of a run and how they talk: one alone, or those that torchrun starts.

Tensors on the CPU go through gloo even on a GPU run: what ranks tell each other between steps then never waits for the
GPU to finish.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from schemas.errors import ConfigError

DeviceOption = Literal["auto", "cuda", "cpu"]

_REST_SECONDS = 0.1


@dataclass(frozen=True)
class Distributed:
    """One process of a run.

    Attributes:
        rank: From 0.
        world_size: Processes of the run.
        device: Of this process.
        store: Keys and values that all ranks see.
        mesh: All ranks, in one dimension.
    """

    rank: int
    world_size: int
    device: torch.device
    store: Store
    mesh: DeviceMesh

    @property
    def is_main(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """Every rank's values, by rank; collective. Floats of 64 bits hold counts up to 2**53 exactly."""
        own = torch.tensor(values, dtype=torch.float64)
        out = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(out, own)
        return [tensor.tolist() for tensor in out]

    def wait_for_all(self) -> None:
        """Returns when every rank has come here."""
        self.gather([0.0])


@contextlib.contextmanager
def connected(device: DeviceOption, timeout_seconds: float) -> Iterator[Distributed]:
    """Joins the processes of the run, and parts at the end.

    Args:
        device: "auto" is the GPU if there is one.
        timeout_seconds: Bound on how long a rank waits for the others.

    Raises:
        ConfigError: There is no GPU.
    """
    under_torchrun = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, world_size = next(rendezvous("env://")) if under_torchrun else (HashStore(), 0, 1)
    store.set_timeout(timedelta(seconds=timeout_seconds))
    if world_size == 1 and sys.platform == "linux":
        # Nobody else will call: open no port that others can reach.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo",
        store=PrefixStore("collectives", store),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_seconds),
    )
    mesh = init_device_mesh(chosen.type, (world_size,), mesh_dim_names=("ranks",))
    parted = False
    try:
        yield Distributed(rank, world_size, chosen, store, mesh)
        parted = True
    finally:
        # After an error other ranks may be inside a collective: NCCL would wait for them; ending the process does not.
        if parted or chosen.type == "cpu":
            dist.destroy_process_group()
            _let_gloo_rest()


def _let_gloo_rest() -> None:
    """Lets gloo's threads give back the tensors of the last collective, for which each needs the interpreter once more.

    One that asks for it when the interpreter is already ending takes the process down with it ("terminate called
    without an active exception", exit status -6), after all has been done and saved. They are not joined: groups live
    on in models and meshes. See https://github.com/pytorch/pytorch/issues/190489.
    """
    time.sleep(_REST_SECONDS)


def _device(option: DeviceOption, local_rank: int) -> torch.device:
    if option == "cpu" or (option == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available() or local_rank >= torch.cuda.device_count():
        raise ConfigError(
            "no-gpu",
            where="--device cuda",
            expected=f"a GPU for local rank {local_rank}",
            actual=f"{torch.cuda.device_count() if torch.cuda.is_available() else 0} GPUs that torch can use",
            remedy="start no more processes than GPUs, or use --device cpu",
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)

"""Started by torchrun: trains on batches of memory as one of several ranks, in all the ways that ranks must agree on.

Rank 0 prints a JSON object: figures by step, of a plain run and of one with accumulation, whose passes and reductions
are counted; the steps after which the ranks' clocks ended a run; and what a run raised whose data failed on one rank.
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor.debug import CommDebugMode

from schemas.errors import EncodeOnceError
from tests.trainer.memory_stream import MemoryStream
from tests.trainer.memory_training import GLOBAL_BATCH, SIX_STEPS, Recorded, make_loop, make_state
from trainer.distributed import Distributed, connected
from trainer.stopping import StopRequest


def main() -> None:
    torch.set_num_threads(1)
    with connected("cpu", 60.0) as distributed:

        def stream(fails_at: int | None = None) -> MemoryStream:
            rows = GLOBAL_BATCH // distributed.world_size
            return MemoryStream(rows, distributed.rank, distributed.world_size, num_sizes=2, fails_at=fails_at)

        state, recorded = make_state(stream(), distributed), Recorded()
        assert isinstance(state.model, FSDPModule) == (distributed.world_size > 1)
        make_loop(distributed, state, recorded).run(StopRequest())
        accumulated, num_passes, num_reductions = accumulate(distributed)
        ended_at = [int(step[0]) for step in distributed.gather([out_of_time(distributed)])]
        failing = make_state(stream(2 * GLOBAL_BATCH if distributed.rank == 1 else None), distributed)
        try:
            make_loop(distributed, failing, Recorded()).run(StopRequest())
            raised = "nothing"
        except (EncodeOnceError, OSError) as error:
            raised = str(error)
        if distributed.is_main:
            found = {"figures": recorded.figures, "raised": raised, "step": failing.step, "ended_at": ended_at}
            found |= {"accumulated": accumulated, "num_passes": num_passes, "num_reductions": num_reductions}
            json.dump(found, sys.stdout)


def accumulate(distributed: Distributed) -> tuple[dict[int, dict[str, float]], int, int]:
    """The plain run in four times as many passes: its figures, its passes, its reductions of gradients."""
    rows, recorded = GLOBAL_BATCH // distributed.world_size // 4, Recorded()
    state = make_state(MemoryStream(rows, distributed.rank, distributed.world_size, num_sizes=2), distributed)
    passes: list[None] = []
    state.model.register_forward_pre_hook(lambda *_: passes.append(None))
    with CommDebugMode() as counted:
        make_loop(distributed, state, recorded, config=replace(SIX_STEPS, accumulation=4)).run(StopRequest())
    return recorded.figures, len(passes), counted.get_comm_counts()[torch.ops.c10d._reduce_scatter_base_]


def out_of_time(distributed: Distributed) -> int:
    """Steps of a run whose time is up on the clock of the last rank alone."""
    ticks = itertools.count()
    clock = (lambda: float(next(ticks))) if distributed.rank == distributed.world_size - 1 else (lambda: 0.0)
    rows = GLOBAL_BATCH // distributed.world_size
    state = make_state(MemoryStream(rows, distributed.rank, distributed.world_size), distributed)
    limited = replace(SIX_STEPS, max_seconds=4.0)
    assert make_loop(distributed, state, Recorded(), config=limited, clock=clock).run(StopRequest())
    return state.step


if __name__ == "__main__":
    main()

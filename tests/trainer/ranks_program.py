"""Started by torchrun: trains on batches of memory as one of several ranks, then meets a rank that fails.

Rank 0 prints a JSON object: figures by step, and what the failing run raised.
"""

from __future__ import annotations

import json
import sys

import torch
from torch.distributed.fsdp import FSDPModule

from schemas.errors import EncodeOnceError
from tests.trainer.memory_stream import MemoryStream
from tests.trainer.memory_training import GLOBAL_BATCH, Recorded, make_loop, make_state
from trainer.distributed import connected
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
        failing = make_state(stream(2 * GLOBAL_BATCH if distributed.rank == 1 else None), distributed)
        try:
            make_loop(distributed, failing, Recorded()).run(StopRequest())
            raised = "nothing"
        except (EncodeOnceError, OSError) as error:
            raised = str(error)
        if distributed.is_main:
            json.dump({"figures": recorded.figures, "raised": raised, "step": failing.step}, sys.stdout)


if __name__ == "__main__":
    main()

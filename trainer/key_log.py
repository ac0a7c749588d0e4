"""Which samples each step was trained on, for audits: OUTPUT/keys/rank-R.jsonl, a line a step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.distributed import Distributed
from trainer.history import History, drop_lines_after
from trainer.stream.batch import Batch

KEYS = "keys"


@contextlib.contextmanager
def open_key_log(
    folder: Path, distributed: Distributed, first_step: int
) -> Iterator[Callable[[int, list[Batch]], None]]:
    """Begins to log, or goes on; collective.

    Args:
        folder: Of the run.
        distributed: The ranks.
        first_step: Steps done before; lines of later ones, of a run that was killed, are dropped.

    Yields:
        A function that writes the valid samples of a step: {"step", "positions", "keys"}.
    """
    if distributed.is_main:
        # Also the files of ranks that this run does not have.
        for path in (folder / KEYS).glob("rank-*.jsonl"):
            drop_lines_after(path, first_step)
    distributed.wait_for_all()
    history = History(folder / KEYS / f"rank-{distributed.rank}.jsonl")

    def log(step: int, batches: list[Batch]) -> None:
        positions = [position for batch in batches for position in batch.positions[batch.valid].tolist()]
        rows = [zip(batch.keys, batch.valid, strict=True) for batch in batches]
        history.write(step, {"positions": positions, "keys": [key for row in rows for key, valid in row if valid]})

    try:
        yield log
    finally:
        history.close()

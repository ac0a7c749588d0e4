"""The ranks of a run while they save or load: what one of them cannot do, all of them hear of.

They speak over a gloo group of their own, so that a save in the background never meets the collectives of the training
step. Objects between ranks are pickled by torch: they come from processes of the same run, never from a file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist
from torch.distributed import ProcessGroup

from schemas.errors import EncodeOnceError, StorageError

_Result = TypeVar("_Result")


class Ranks:
    """All ranks of the run; a single one where torch.distributed is not initialised. Making one is collective."""

    def __init__(self) -> None:
        self.group: ProcessGroup | None = None
        if dist.is_initialized():
            group = dist.new_group(backend="gloo")
            assert isinstance(group, ProcessGroup)
            self.group = group
        self.rank = dist.get_rank() if self.group else 0
        self.world_size = dist.get_world_size() if self.group else 1

    def gather(self, work: Callable[[], _Result]) -> list[_Result]:
        """Runs `work` on every rank; collective.

        Returns:
            Every rank's result, in order.

        Raises:
            EncodeOnceError: On every rank, what the first failing rank raised. Another kind of error is raised as it
                is on the rank where it happened, and as a StorageError that quotes it on the others.
        """
        outcome: _Result | EncodeOnceError
        error: Exception | None = None
        try:
            outcome = work()
        except EncodeOnceError as failure:
            error, outcome = failure, failure
        except Exception as failure:
            error, outcome = failure, self._quoted(failure)
        outcomes: list[_Result | EncodeOnceError | None] = [outcome]
        if self.group is not None:
            outcomes = [None] * self.world_size
            dist.all_gather_object(outcomes, outcome, group=self.group)
        if error is not None:
            raise error
        results: list[_Result] = []
        for item in outcomes:
            if isinstance(item, EncodeOnceError):
                raise item
            assert item is not None
            results.append(item)
        return results

    def first(self, work: Callable[[], object]) -> None:
        """Runs `work` on rank 0 while the others wait; collective. Raises as `gather`."""
        self.gather(lambda: work() is None if self.rank == 0 else True)

    def _quoted(self, failure: Exception) -> StorageError:
        return StorageError(
            "checkpoint-failed",
            where=f"rank {self.rank}",
            expected="the checkpoint to be written or read by every rank",
            actual=f"{type(failure).__name__}: {failure}"[:2000],
            remedy="mend that, then run the same command again: it resumes from the latest complete checkpoint",
        )

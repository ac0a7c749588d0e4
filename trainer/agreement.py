"""What ranks tell each other before each step, so that none waits for one that will not come.

Under FSDP every forward and backward pass is collective: all ranks must do the same number of them, though one may
have pictures of more sizes than another, or none that are valid. And a rank whose data fails must not leave the others
waiting: they all end with its error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from schemas.errors import ConfigError, EncodeOnceError
from trainer.distributed import Distributed

Result = TypeVar("Result")


class RankFailedError(EncodeOnceError):
    """Another rank could not go on."""


@dataclass(frozen=True)
class Agreement:
    """What holds for all ranks in a step.

    Attributes:
        num_passes: Passes through the model that every rank does.
        num_valid: Valid samples of the step on all ranks together.
        stopping: Whether the run was asked, on some rank, to end after the step.
        seconds: Time of training when the step begins, of the rank that is furthest.
    """

    num_passes: int
    num_valid: int
    stopping: bool
    seconds: float = 0.0


def agree(
    distributed: Distributed,
    *,
    num_passes: int,
    num_valid: int,
    stopping: bool = False,
    seconds: float = 0.0,
    error: Exception | None = None,
) -> Agreement:
    """Exchanges a few numbers; collective.

    Args:
        distributed: The ranks.
        num_passes: Micro-batches that this rank has.
        num_valid: Valid samples in them.
        stopping: Whether this rank was asked to stop.
        seconds: Time of training on this rank's clock.
        error: What kept this rank from having any.

    Raises:
        RankFailedError: Another rank had an error; has its text.
        Exception: `error` itself, once the others know of it.
    """
    if error is not None:
        distributed.store.set(_key(distributed.rank), _text(error))
    numbers = distributed.gather([num_passes, num_valid, stopping, error is not None, seconds])
    if error is not None:
        raise error
    failed = [rank for rank, found in enumerate(numbers) if found[3]]
    if failed:
        raise _rank_failed(distributed, failed)
    return Agreement(
        num_passes=int(max(found[0] for found in numbers)),
        num_valid=int(sum(found[1] for found in numbers)),
        stopping=any(found[2] for found in numbers),
        seconds=max(found[4] for found in numbers),
    )


def together(distributed: Distributed, work: Callable[[], Result]) -> Result:
    """Does something on every rank that may fail on one alone, such as opening a file; collective.

    Raises:
        RankFailedError: It failed on another rank.
        Exception: What it raised on this one.
    """
    error: Exception | None = None
    try:
        result = work()
    except Exception as raised:
        error = raised
    agree(distributed, num_passes=0, num_valid=0, error=error)
    return result


def require_same_everywhere(distributed: Distributed, digest: str, *, what: str) -> None:
    """Refuses ranks that do not see the same; collective.

    Args:
        distributed: The ranks.
        digest: Hexadecimal, of what they see.
        what: Its name.

    Raises:
        ConfigError: Another rank has another digest.
    """
    # As many digits as a float holds exactly.
    found = [int(values[0]) for values in distributed.gather([int(digest[:12], 16)])]
    if len(set(found)) > 1:
        different = [rank for rank, value in enumerate(found) if value != found[0]]
        raise ConfigError(
            "ranks-differ",
            where=what,
            expected="the same on every rank",
            actual=f"rank {', '.join(map(str, different))} sees something else than rank 0",
            remedy="wait until nothing is being added, give every rank the same options, and start again",
        )


def _rank_failed(distributed: Distributed, failed: list[int]) -> RankFailedError:
    texts = [distributed.store.get(_key(rank)).decode(errors="replace") for rank in failed]
    return RankFailedError(
        "rank-failed",
        where=f"rank {', '.join(map(str, failed))} of {distributed.world_size}",
        expected="data on every rank",
        actual="\n    ".join("\n".join(texts).splitlines()),
        remedy="mend what the error says and run the same command again: it resumes from the latest checkpoint",
    )


def _key(rank: int) -> str:
    return f"failure-of-rank-{rank}"


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, EncodeOnceError) else f"{type(error).__name__}: {error}"

"""What an exception that Ray hands to the driver means: whose fault, and whether the worker can go on.

Ray has one family of exceptions for "your code raised" (`RayTaskError`, the process lives) and several for "the
process, the node or the result is gone". Everything that is not clearly the first kind is treated as the second: a
worker that was killed for nothing costs a boot, a worker kept for nothing costs a hang.
"""

from __future__ import annotations

from dataclasses import dataclass

import ray
from ray.exceptions import ActorUnavailableError, NodeDiedError, RayActorError, RayTaskError

from schemas.storage_errors import is_without_room

_MAX_REASON_CHARACTERS = 2000

_DEVICE_FAULTS = (
    "CUDA error",
    "CUDA out of memory",
    "cuDNN error",
    "CUBLAS_STATUS",
    "CUDNN_STATUS",
    "device-side assert",
    "HIP error",
    "NCCL error",
)
"""After most of these every later call in the process fails too; after running out of memory a fresh process has the
least fragmented one."""

_RAY_PREAMBLE = "The actor is dead because its worker process has died."
_RAY_ADVICE = " Some common causes include:"


@dataclass(frozen=True)
class Fault:
    """One failed call of an actor."""

    reason: str
    """For people; one line if it can be."""
    traceback: str
    """The worker's traceback, empty if the process died."""
    cause: BaseException | None
    """What the worker's code raised; None if the process died."""
    needs_new_worker: bool
    blames_unit: bool
    """False if the node was lost, or there is no room to write: then whatever ran there had no part in it."""
    stops_job: bool = False
    """No other unit would fare better."""


def fault_of(error: BaseException, node_id: str | None) -> Fault:
    """Classifies an exception from `ray.get`.

    Args:
        node_id: The node the actor runs on, as Ray names it, or None if unknown.
    """
    if isinstance(error, RayTaskError):
        cause = error.cause if isinstance(error.cause, BaseException) else error
        reason = _shortened(f"{type(cause).__name__}: {cause}")
        # The attribute marks exceptions of our own; a device's fault comes from a library that knows nothing of us.
        is_fatal = getattr(cause, "needs_new_worker", False) or any(mark in reason for mark in _DEVICE_FAULTS)
        stops = bool(getattr(cause, "stops_job", False)) or is_without_room(cause)
        return Fault(reason, _traceback(error), cause, bool(is_fatal), blames_unit=not stops, stops_job=stops)
    lost = isinstance(error, (ActorUnavailableError, NodeDiedError)) or getattr(error, "preempted", False)
    if lost or (node_id is not None and not _node_is_alive(node_id)):
        return Fault(f"node lost ({_shortened(_flat(error))})", "", None, True, blames_unit=False)
    if isinstance(error, RayActorError):
        return Fault(f"worker process died ({_shortened(_flat(error))})", "", None, True, blames_unit=True)
    return Fault(f"no result ({_shortened(_flat(error))})", "", None, True, blames_unit=True)


def _node_is_alive(node_id: str) -> bool:
    try:
        return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == node_id)
    except Exception:  # The head does not answer: then this is no time to acquit or to blame by it.
        return True


def _traceback(error: RayTaskError) -> str:
    return str(getattr(error, "traceback_str", "") or error)


def _flat(error: BaseException) -> str:
    """The message on one line, without the facts (ids, addresses) and the advice that are the same for every death."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    text = " ".join(lines).split(_RAY_ADVICE)[0]
    return f"{type(error).__name__}: {text.rpartition(_RAY_PREAMBLE)[2].strip()}"


def _shortened(text: str) -> str:
    if len(text) <= _MAX_REASON_CHARACTERS:
        return text
    return text[: _MAX_REASON_CHARACTERS - 3] + "..."

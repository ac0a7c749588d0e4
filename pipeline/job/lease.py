"""One live run a dataset: each says that it is alive in `runs/<run_id>.alive`, and none begins beside a live one.

A lease is rewritten every few seconds by a thread, so that its age on the store's own clock tells whether its run
lives; two machines' clocks are never compared. A run on this machine is known to be dead at once when its process is
gone, so that a killed run can be resumed without waiting.

Two runs that begin at the same time are told apart by their keys: when the store dated the first form of the lease,
then the run id. A run writes `starting`, looks, writes `running` with its key, and looks again. It gives way at the
first look to any that is running and to a smaller key, at the second look to a smaller key. As each writes before it
looks, of any two at least one sees the other, and the one with the larger key never goes on: had it seen nothing at its
second look, the other would see it running at its first.

A lease makes collisions rare and orphans safe to collect; it protects no data. That is what conditional commits do.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any

from pipeline.job.process_identity import ProcessIdentity
from schemas.errors import ConfigError, EncodeOnceError, MissingObjectError, StorageError
from schemas.storage import ObjectInfo, Store

RUNS_FOLDER = "runs"
LEASE_SUFFIX = ".alive"

_log = logging.getLogger(__name__)


_LAST_HEARTBEAT_SECONDS = 20.0
"""The end of a run waits for a heartbeat on its way for so long."""


@dataclass(frozen=True)
class _Seen:
    """Another run's lease."""

    run_id: str
    path: str
    modified: datetime
    """On the store's clock."""
    body: dict[str, Any]

    @property
    def is_running(self) -> bool:
        return self.body.get("state") == "running"

    @property
    def key(self) -> tuple[str, str]:
        """Smaller is earlier. A running lease was rewritten since, so it carries the date of its first form."""
        began = self.body.get("began")
        return (began if self.is_running and isinstance(began, str) else _date(self.modified)), self.run_id

    @property
    def owner(self) -> ProcessIdentity | None:
        return ProcessIdentity.from_json(self.body.get("process"))


class Lease:
    """Holds the dataset for one run, as a context manager.

    Args:
        dataset: The dataset.
        run_id: This run's, unlike any other.
        heartbeat_seconds: How often the lease is renewed.
        stale_after_seconds: A lease not renewed for so long is dead. Several times `heartbeat_seconds`.

    Attributes:
        lost: True once another run has taken the dataset over, because this one was silent for too long (a suspended
            process, a store out of reach). The run should stop, and must not collect orphans.
        dead: Leases of runs that are known to be dead, for `finalize` to delete.

    Raises:
        ConfigError: On entering, code `run-live`: another run is alive.
    """

    def __init__(
        self, dataset: Store, run_id: str, *, heartbeat_seconds: float = 20.0, stale_after_seconds: float = 120.0
    ) -> None:
        assert stale_after_seconds > 2 * heartbeat_seconds
        self.path = f"{RUNS_FOLDER}/{run_id}{LEASE_SUFFIX}"
        self.lost = False
        self.dead: tuple[str, ...] = ()
        self._dataset = dataset
        self._run_id = run_id
        self._heartbeat_seconds = heartbeat_seconds
        self._stale_after_seconds = stale_after_seconds
        self._process = ProcessIdentity.current()
        self._key = ("", run_id)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)

    def __enter__(self) -> Lease:
        try:
            self._acquire()
        except BaseException:
            with contextlib.suppress(StorageError):
                self._dataset.delete([self.path])
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        # A heartbeat that is on its way would write the lease once more after its end.
        self._thread.join(timeout=_LAST_HEARTBEAT_SECONDS)
        try:
            self._dataset.delete([self.path])
        except StorageError as problem:
            # The run's work is committed; the lease that stays behind ends by its age.
            _log.warning("the lease could not be deleted: %s", problem)

    def _acquire(self) -> None:
        self._write("starting")
        modified, others = self._look()
        if modified is None:
            raise self._taken_away()
        self._key = (_date(modified), self._run_id)
        for other in others:
            if other.is_running or other.key < self._key:
                raise self._live(other, modified)
        self._write("running")
        modified, others = self._look()
        for other in others:
            if other.key < self._key:
                raise self._live(other, modified)

    def _beat(self) -> None:
        while not self._ended.wait(self._heartbeat_seconds):
            try:
                modified, others = self._look()
                if modified is None or any(other.is_running and other.key > self._key for other in others):
                    self.lost = True
                    return
                self._write("running")
            except EncodeOnceError as problem:
                # The next one may get through; nobody else can take over through a store that is down.
                _log.warning("the lease could not be renewed: %s", problem)

    def _write(self, state: str) -> None:
        body = {
            "run_id": self._run_id,
            "state": state,
            "began": self._key[0] if state == "running" else None,
            "process": self._process.to_json(),
        }
        self._dataset.replace(self.path, json.dumps(body, indent=1).encode())

    def _look(self) -> tuple[datetime | None, list[_Seen]]:
        """When the store dated our own lease, None if it is gone, and the live leases of others; notes the dead."""
        leases = [info for info in self._dataset.list(RUNS_FOLDER) if info.path.endswith(LEASE_SUFFIX)]
        own = next((info.last_modified for info in leases if info.path == self.path), None)
        live, dead = [], []
        for seen in self._read(leases):
            if own is not None and self._is_dead(seen, own):
                dead.append(seen.path)
            else:
                live.append(seen)
        self.dead = tuple(sorted(dead))
        return own, live

    def _read(self, leases: list[ObjectInfo]) -> Iterator[_Seen]:
        for info in leases:
            if info.path == self.path:
                continue
            try:
                body = json.loads(self._dataset.get(info.path))
            except MissingObjectError:  # It ended this moment.
                continue
            except ValueError:  # Nothing of ours; its age alone counts.
                body = {}
            run_id = info.path.removeprefix(f"{RUNS_FOLDER}/").removesuffix(LEASE_SUFFIX)
            yield _Seen(run_id, info.path, info.last_modified, body if isinstance(body, dict) else {})

    def _is_dead(self, seen: _Seen, own: datetime) -> bool:
        if seen.owner is not None and seen.owner.is_gone():
            return True
        return (own - seen.modified).total_seconds() > self._stale_after_seconds

    def _live(self, other: _Seen, own: datetime | None) -> ConfigError:
        age = "" if own is None else f", renewed {max(0.0, (own - other.modified).total_seconds()):.0f} s ago"
        owner = other.owner
        return ConfigError(
            "run-live",
            where=self._dataset.url,
            expected="no other run to be writing to this dataset",
            actual=f"run {other.run_id} is alive{age}" + (f" ({owner})" if owner is not None else ""),
            remedy=f"wait for it, or stop it; a run that died elsewhere counts as dead after "
            f"{self._stale_after_seconds:.0f} s of silence",
        )

    def _taken_away(self) -> ConfigError:
        return ConfigError(
            "run-live",
            where=self._dataset.locate(self.path),
            expected="the lease that this run has just written",
            actual="it is gone",
            remedy="another process is cleaning this dataset up; run the same command again when it has ended",
        )


def _date(moment: datetime) -> str:
    """Sorts as it reads, to the microsecond."""
    return moment.isoformat(timespec="microseconds")

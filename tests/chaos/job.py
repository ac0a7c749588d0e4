"""The job as a user runs it: one command, given again until it says that it is done."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.processes import Process, process, users_of
from tests.chaos.schedule import Container
from tests.integration.commands import REPOSITORY, environment
from tests.loopback import loopback_command

POISON = REPOSITORY / "tests/integration/faults"
DONE, SOME_QUARANTINED = 0, 3
_GONE_SECONDS = 300.0


@dataclass(frozen=True)
class Job:
    """What is encoded, and how.

    Attributes:
        inputs: Folder of tars.
        dataset: Folder written.
        container: Of the dataset.
        num_workers: Actors.
        max_attempts: Of a shard, before it is quarantined.
        shard_timeout_seconds: After which a shard's worker is taken to hang.
        shards_per_worker: That a worker has in hand at a time.
    """

    inputs: Path
    dataset: Path
    container: Container
    num_workers: int = 2
    max_attempts: int = 4
    shard_timeout_seconds: float = 60.0
    shards_per_worker: int = 1

    def arguments(self) -> list[str]:
        """Of `python -m pipeline`."""
        return [
            *("encode", "demo", "--input", str(self.inputs), "--output", str(self.dataset)),
            *("--columns", "txt", "json.long_caption", "--latents", "pixels"),
            *("--chunk-rows", "8", "--container", self.container, "--num-workers", str(self.num_workers)),
            *("--max-attempts", str(self.max_attempts), "--shards-per-worker", str(self.shards_per_worker)),
            *("--shard-timeout-seconds", str(self.shard_timeout_seconds)),
        ]

    def names(self) -> set[str]:
        """The dataset's files, but for a living run's sign of life."""
        paths = self.dataset.rglob("*")
        return {str(path) for path in paths if path.suffix not in (".alive", ".tmp") and path.is_file()}

    def num_committed(self) -> int:
        """Records in the ledger."""
        return sum(1 for _ in (self.dataset / "ledger").rglob("*.json"))


class Driver:
    """A running command.

    Attributes:
        started: When, by the monotonic clock.
        seen: Every process of it that was seen, for none may outlive it.
    """

    def __init__(self, job: Job, scratch: Path, log: Path) -> None:
        self.started = time.monotonic()
        self.seen: set[Process] = set()
        self._scratch = scratch
        self._log = log
        variables = environment(PYTHONPATH=f"{POISON}:{REPOSITORY}", TMPDIR=str(scratch))
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                loopback_command([sys.executable, "-m", "pipeline", *job.arguments()]),
                cwd=REPOSITORY,
                env=variables,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        found = process(self._popen.pid)
        assert found is not None
        self.process = found

    def members(self) -> list[Process]:
        """Ray's processes on its behalf, as they are now."""
        found = [one for one in users_of(self._scratch) if one.pid != self.process.pid]
        self.seen |= set(found)
        return found

    def status(self) -> int | None:
        """Exit status; None while it runs."""
        return self._popen.poll()

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        self.members()
        self._popen.send_signal(signal.SIGKILL)
        self._popen.wait()

    def survivors(self) -> list[Process]:
        """What still lives of it minutes after its end; empty as soon as nothing does."""
        deadline = time.monotonic() + _GONE_SECONDS
        while alive := [one for one in self.seen if one.lives()]:
            if time.monotonic() > deadline:
                return alive
            time.sleep(0.2)
        return []

    def end(self) -> None:
        """Kills it and all that it started, those too that start meanwhile."""
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait()
        deadline = time.monotonic() + _GONE_SECONDS
        while (alive := [one for one in {*self.members(), *self.seen} if one.lives()]) and time.monotonic() < deadline:
            for one in alive:
                one.signal(signal.SIGKILL)
            time.sleep(0.02)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Where Ray's private folders are made; its name is short, as those of Ray's sockets must be."""
    folder = Path(tempfile.mkdtemp(prefix="ch", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""One step of the benchmark in a process of its own: `python -m benchmarks.loader.child JOB`.

Loaders are measured one at a time in fresh processes, each in the environment that it is installed in. The job is JSON,
and so is the answer: the last line that is printed.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

# Before pyarrow, for its allocator's sake: of all that use Arrow, here and in the peers' environment.
import trainer  # noqa: F401
from benchmarks.loader import values
from benchmarks.loader.meter import digests, measure


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        action: write: the format's files; measure: samples a second; digest: of every sample of an epoch; options: the
            settings to try.
        module: The loader's, below `benchmarks.loader`.
        batches: Its function that gives batches.
        folder: Of the format.
        values: The file of `values.write_values`, for write.
        options: Of the loader.
        batch_size: Samples of a batch.
        cores: Processor cores to use; 0: all.
        warmup_seconds: Before the measurement.
        seconds: Of the measurement.
    """

    action: Literal["write", "measure", "digest", "options"]
    module: str
    folder: str
    batches: str = "batches"
    values: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 16
    cores: int = 2
    warmup_seconds: float = 4.0
    seconds: float = 5.0

    def arguments(self) -> list[str]:
        """Of the process."""
        return ["-m", "benchmarks.loader.child", json.dumps(asdict(self))]


def run(job: Job) -> dict[str, Any]:
    """Does a job; the answer depends on the action."""
    module, folder = importlib.import_module(f"benchmarks.loader.{job.module}"), Path(job.folder)
    if job.action == "write":
        folder.mkdir(parents=True, exist_ok=True)
        module.write(folder, values.open_values(Path(job.values)))
        return {}
    if job.action == "options":
        return {"batches": module.OPTIONS, "documented_batches": module.DOCUMENTED}
    batches = getattr(module, job.batches)(folder, job.batch_size, once=job.action == "digest", **job.options)
    if job.action == "digest":
        return digests(batches)
    return measure(batches, job.warmup_seconds, job.seconds)


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    if job.cores:
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: job.cores]))
    answer = run(job)
    print(json.dumps(answer), flush=True)
    for worker in multiprocessing.active_children():
        worker.terminate()
    # Some loaders' threads would keep the process waiting.
    os._exit(0)


if __name__ == "__main__":
    main()

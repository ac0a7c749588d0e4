"""What is measured, each in a process of its own: `python -m benchmarks.scale.tasks NAME ...` prints a line of JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from benchmarks.scale.datasets import GROUP, only_record, renamed, shard_name


def resident_mb() -> float:
    """Peak resident memory of this process, MB of 10^6 bytes."""
    # Not getrusage: that counts what the parent had when it forked.
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def plan(inputs: str, dataset: str) -> dict[str, Any]:
    """Lists the tars, lists the ledger, and says what is left to do."""
    from pipeline.job.plan import make_plan
    from pipeline.sources import list_inputs
    from schemas.storage import Store

    return _timed(lambda: len(make_plan(list_inputs(inputs), Store(dataset), (GROUP,), retry_quarantined=False).todo))


def index(dataset: str) -> dict[str, Any]:
    """The end of a run: every record read and checked, totals, the index written, orphans looked for."""
    from pipeline.job.finalize import finalize
    from schemas.index import INDEX_PATH
    from schemas.storage import Store

    found = _timed(lambda: finalize(Store(dataset), (GROUP,), (), collect_orphans=True).num_records)
    return found | {"index_bytes": (Path(dataset) / INDEX_PATH).stat().st_size}


def open_stream(dataset: str) -> dict[str, Any]:
    """The trainer's stream, up to the first chunk that it would read."""
    import schemas
    from trainer.conditioning import ConditioningConfig
    from trainer.stream.config import StreamConfig
    from trainer.stream.loader import StreamLoader

    def opened() -> int:
        stored = schemas.open_dataset(dataset)
        loader = StreamLoader([stored], StreamConfig(), ConditioningConfig(), seed=0, batch_size=16)
        return int(loader.datasets[0].catalog.num_rows)

    return _timed(opened)


def loop(one: str, dataset: str, count: str) -> dict[str, Any]:
    """The real loop over real actors, whose encoder is simulated: each shard is one record, committed."""
    import ray

    from pipeline.counters import Counters
    from pipeline.job.cluster import connect
    from pipeline.job.loop import run_units
    from pipeline.job.loop_config import LoopConfig
    from pipeline.job.progress import Progress
    from pipeline.shard_encoder import GroupResult, ShardResult
    from schemas.ledger import record_path
    from schemas.storage import Store

    number = int(count)

    @ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"live": 1})
    class Simulated:
        def __init__(self) -> None:
            self.record, self.store = only_record(Path(one)), Store(dataset)

        def ready(self) -> dict[str, Any]:
            return {"pid": os.getpid(), "node_id": ray.get_runtime_context().get_node_id()}

        def run(self, shard: str, attempt: int) -> ShardResult:
            committed = self.store.create(record_path(GROUP, shard), renamed(self.record, shard))
            result = GroupResult(GROUP, committed, self.record.num_rows, self.record.num_encoded, 0, 0, attempt)
            return ShardResult(shard, (result,), Counters(num_captions=self.record.num_rows), 0.0)

        @ray.method(concurrency_group="live")
        def progress(self) -> None:
            return None

    with connect("local", num_cpus=2, log_to_driver=False), Progress(number, stream=sys.stderr) as progress:
        actor = Simulated.options(num_cpus=1)
        ready: list[float] = []

        def on_event(event: Any) -> None:
            if type(event).__name__ == "WorkerReady":
                ready.append(time.perf_counter())
            progress.on_event(event)

        units = (shard_name(unit) for unit in range(number))
        result = run_units(units, actor.remote, LoopConfig(num_workers=2), on_event, lambda: False)
        seconds = time.perf_counter() - ready[0]
    if len(result.done) != number:
        raise RuntimeError(f"{len(result.done)} of {number} shards are done")
    return {"seconds": seconds, "peak_mb": resident_mb(), "ms_per_shard": 1e3 * seconds / number}


def driver(count: str) -> dict[str, Any]:
    """The real loop alone: workers answer as soon as they are asked, and Ray is not there."""
    from pipeline.counters import Counters
    from pipeline.job import crew, loop
    from pipeline.job.loop_config import LoopConfig
    from pipeline.job.progress import Progress
    from pipeline.shard_encoder import GroupResult, ShardResult

    number = int(count)

    class Method:
        def __init__(self, answer: Callable[..., object]) -> None:
            self.remote = lambda *arguments: _Reference(answer(*arguments))

    def result(shard: str, attempt: int) -> ShardResult:
        return ShardResult(shard, (GroupResult(GROUP, True, 512, 512, 0, 0, attempt),), Counters(num_captions=512), 0.0)

    def actor() -> Any:
        return SimpleNamespace(
            run=Method(result), ready=Method(lambda: {"node_id": "n"}), progress=Method(lambda: None)
        )

    with Progress(number, stream=open(os.devnull, "w")) as progress:
        started = time.perf_counter()
        with mock.patch.object(crew, "ray", _AtOnce), mock.patch.object(loop, "ray", _AtOnce):
            units = (shard_name(unit) for unit in range(number))
            done = loop.run_units(units, actor, LoopConfig(num_workers=64), progress.on_event, lambda: False).done
        seconds = time.perf_counter() - started
    if len(done) != number:
        raise RuntimeError(f"{len(done)} of {number} shards are done")
    return {"seconds": seconds, "peak_mb": resident_mb(), "ms_per_shard": 1e3 * seconds / number}


def commits(one: str, dataset: str, count: str) -> dict[str, Any]:
    """What the simulated encoder does, in one process and without the loop: not the loop's time."""
    from schemas.ledger import record_path
    from schemas.storage import Store

    record, store, number = only_record(Path(one)), Store(dataset), int(count)
    started = time.perf_counter()
    for unit in range(number):
        store.create(record_path(GROUP, shard_name(unit)), renamed(record, shard_name(unit)))
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "ms_per_shard": 1e3 * seconds / number}


class _Reference:
    """To an answer that is there."""

    def __init__(self, answer: object) -> None:
        self.answer = answer


class _AtOnce:
    """As much of Ray as the loop asks for."""

    @staticmethod
    def wait(refs: Iterable[_Reference], **_: object) -> tuple[list[_Reference], list[_Reference]]:
        return list(refs), []

    @staticmethod
    def get(reference: _Reference) -> object:
        return reference.answer

    @staticmethod
    def kill(actor: object) -> None:
        """Nothing lives."""


def _timed(work: Callable[[], int]) -> dict[str, Any]:
    before = resident_mb()
    started = time.perf_counter()
    count = work()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "imports_mb": before, "peak_mb": resident_mb(), "count": count}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "plan": plan,
    "index": index,
    "open": open_stream,
    "loop": loop,
    "driver": driver,
    "commits": commits,
}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](*sys.argv[2:])))

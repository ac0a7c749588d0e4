"""At most one live run a dataset: refused beside a live one, at once after a dead one, in every order of a race."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.job.lease import Lease
from pipeline.job.process_identity import ProcessIdentity
from schemas.errors import ConfigError, StorageError
from schemas.storage import ObjectInfo, Store

QUICK: dict[str, Any] = {"heartbeat_seconds": 0.05}


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def wait_for_heartbeats(path: Path, number: int = 3) -> None:
    """Returns when a lease was renewed so often."""
    for _ in range(number):
        before = path.stat().st_mtime_ns
        wait_until(lambda before=before: path.stat().st_mtime_ns != before)


def write_lease(folder: Path, run_id: str, *, age_seconds: float = 0.0, host: str = "elsewhere", **body: Any) -> Path:
    """The lease of another machine's run."""
    process = {"host": host, "pid": 1234, "started": "1", "machine": "another boot"}
    path = folder / "runs" / f"{run_id}.alive"
    path.parent.mkdir(parents=True, exist_ok=True)
    began = "9999-01-01T00:00:00.000000+00:00"
    path.write_text(json.dumps({"run_id": run_id, "state": "running", "began": began, "process": process} | body))
    moment = time.time() - age_seconds
    os.utime(path, (moment, moment))
    return path


def test_a_second_run_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with Lease(store, "one", **QUICK) as first:
        with pytest.raises(ConfigError, match="run-live") as refusal, Lease(store, "two", **QUICK):
            pass
        assert "run one is alive" in refusal.value.actual
        assert f"process {os.getpid()}" in refusal.value.actual
        assert [path.name for path in (tmp_path / "runs").iterdir()] == ["one.alive"]
        wait_for_heartbeats(tmp_path / first.path)
        assert not first.lost
    assert list((tmp_path / "runs").iterdir()) == []
    with Lease(store, "three", **QUICK) as third:
        assert third.dead == ()


def test_heartbeats_keep_a_lease_alive_past_its_age(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with Lease(store, "one", **QUICK) as lease:
        long_ago = time.time() - 1000
        os.utime(tmp_path / lease.path, (long_ago, long_ago))
        wait_until(lambda: (tmp_path / lease.path).stat().st_mtime > long_ago + 500)
        with pytest.raises(ConfigError, match="run-live"), Lease(store, "two", **QUICK):
            pass


def test_a_killed_run_of_this_machine_is_dead_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pipeline.job.lease import Lease; from schemas.storage import Store\n"
        "with Lease(Store(sys.argv[1]), 'killed'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="run-live"), Lease(Store(str(tmp_path)), "early"):
            pass
        process.kill()
        # Not yet waited for: a process that is dead and only not buried is gone too.
        wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        with Lease(Store(str(tmp_path)), "next") as lease:
            assert lease.dead == ("runs/killed.alive",)


def test_a_reused_process_number_is_not_the_process(tmp_path: Path) -> None:
    own = ProcessIdentity.current().to_json()
    assert not ProcessIdentity(**own).is_gone()
    write_lease(tmp_path, "old", process=own | {"started": "17"})
    with Lease(Store(str(tmp_path)), "new") as lease:
        assert lease.dead == ("runs/old.alive",)


def test_a_run_elsewhere_is_dead_after_its_silence(tmp_path: Path) -> None:
    write_lease(tmp_path, "far", age_seconds=100)
    with pytest.raises(ConfigError, match="run-live"), Lease(Store(str(tmp_path)), "new"):
        pass
    write_lease(tmp_path, "far", age_seconds=130)
    with Lease(Store(str(tmp_path)), "new") as lease:
        assert lease.dead == ("runs/far.alive",)


def test_an_unreadable_lease_counts_by_its_age(tmp_path: Path) -> None:
    for age_seconds, is_live in ((0, True), (130, False)):
        path = write_lease(tmp_path, "far")
        path.write_bytes(b"\xff not json")
        os.utime(path, (time.time() - age_seconds,) * 2)
        if is_live:
            with pytest.raises(ConfigError, match="run-live"), Lease(Store(str(tmp_path)), "new"):
                pass
        else:
            with Lease(Store(str(tmp_path)), "new") as lease:
                assert lease.dead == ("runs/far.alive",)


def test_a_lease_that_was_deleted_is_lost_and_stays_so(tmp_path: Path) -> None:
    with Lease(Store(str(tmp_path)), "one", **QUICK) as lease:
        # Again, if a heartbeat that had already looked wrote it anew.
        wait_until(lambda: (tmp_path / lease.path).unlink(missing_ok=True) or lease.lost)
        lease._thread.join()
        assert not (tmp_path / lease.path).exists(), "a lost lease came back"


def test_a_lease_that_was_taken_over_is_lost(tmp_path: Path) -> None:
    with Lease(Store(str(tmp_path)), "one", **QUICK) as lease:
        write_lease(tmp_path, "two", age_seconds=-0.1, state="starting")
        wait_for_heartbeats(tmp_path / lease.path)
        assert not lease.lost, "a newcomer that may yet give way is no loss"
        write_lease(tmp_path, "two", age_seconds=-0.1)
        wait_until(lambda: lease.lost)


class FailingStore(Store):
    """Fails all calls while `is_down`."""

    is_down = False

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        if self.is_down:
            raise StorageError("storage-failed", where="here", expected="an answer", actual="none", remedy="wait")
        return super().list(prefix)


def test_a_store_that_is_down_for_a_while_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = FailingStore(str(tmp_path))
    with Lease(store, "one", **QUICK) as lease:
        store.is_down = True
        wait_until(lambda: caplog.text.count("could not be renewed") >= 3)
        store.is_down = False
        renewed = time.time()
        wait_until(lambda: (tmp_path / lease.path).stat().st_mtime > renewed)
        assert not lease.lost


class SteppedStore:
    """A store in memory, in which each call waits for its turn: the schedule says whose is next."""

    def __init__(self, calls_a_tick: int) -> None:
        self._objects: dict[str, tuple[datetime, bytes]] = {}
        self._moment = datetime(2026, 1, 1, tzinfo=UTC)
        self._calls_a_tick = calls_a_tick
        self._num_calls = 0
        self.turn = threading.local()

    url = "memory"

    def _step(self) -> None:
        self.turn.wait()
        self._num_calls += 1
        if self._num_calls % self._calls_a_tick == 0:
            self._moment += timedelta(milliseconds=1)

    def replace(self, path: str, data: bytes) -> None:
        self._step()
        self._objects[path] = (self._moment, data)

    def list(self, _: str) -> list[ObjectInfo]:
        self._step()
        return [ObjectInfo(path, len(data), None, moment) for path, (moment, data) in self._objects.items()]

    def get(self, path: str) -> bytes:
        self._step()
        return self._objects[path][1] if path in self._objects else b"{}"

    def delete(self, paths: list[str]) -> None:
        self._step()
        for path in paths:
            self._objects.pop(path, None)


def race(run_ids: tuple[str, str], schedule: tuple[int, ...], *, calls_a_tick: int) -> list[str]:
    """Two runs that enter at once, their calls to the store in the order of the schedule; who went on."""
    store = SteppedStore(calls_a_tick)
    winners: list[str] = []
    changed = threading.Condition()
    waiting, granted, ended = set[int](), set[int](), set[int]()

    def enter(index: int) -> None:
        def wait() -> None:
            with changed:
                waiting.add(index)
                changed.notify_all()
                changed.wait_for(lambda: index in granted)
                granted.discard(index)

        store.turn.wait = wait
        lease = Lease(store, run_ids[index], heartbeat_seconds=1000, stale_after_seconds=3000)
        try:
            lease._acquire()
            winners.append(run_ids[index])
        except ConfigError:
            store.delete([lease.path])
        with changed:
            ended.add(index)
            changed.notify_all()

    threads = [threading.Thread(target=enter, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for choice in itertools.chain(schedule, itertools.cycle((0, 1))):
        with changed:
            changed.wait_for(lambda: len(waiting | ended) == 2)
            if len(ended) == 2:
                break
            index = choice if choice in waiting else 1 - choice
            waiting.discard(index)
            granted.add(index)
            changed.notify_all()
    for thread in threads:
        thread.join()
    return winners


@pytest.mark.parametrize("calls_a_tick", [1, 4, 100], ids=["fine clock", "coarse clock", "standing clock"])
@pytest.mark.parametrize("run_ids", [("a", "b"), ("b", "a")])
def test_of_two_runs_that_begin_at_once_at_most_one_goes_on(run_ids: tuple[str, str], calls_a_tick: int) -> None:
    # A run takes at most 6 calls: every order of the first 5 of each, the rest in turns.
    outcomes = [
        race(run_ids, tuple(int(step in own) for step in range(10)), calls_a_tick=calls_a_tick)
        for own in itertools.combinations(range(10), 5)
    ]
    assert {len(winners) for winners in outcomes} <= {0, 1}
    # Both may give way, but seldom: only where the store's clock cannot tell which came first.
    assert sum(map(len, outcomes)) >= 0.87 * len(outcomes)


def test_of_many_threads_at_most_one_holds(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for number in range(10):
        barrier = threading.Barrier(4)
        held: list[str] = []

        def enter(run_id: str, barrier: threading.Barrier = barrier, held: list[str] = held) -> None:
            barrier.wait()
            try:
                with Lease(store, run_id, **QUICK):
                    held.append(run_id)
                    barrier.wait()
            except ConfigError:
                barrier.wait()

        threads = [threading.Thread(target=enter, args=(f"{number}-{index}",)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(held) <= 1
        assert list((tmp_path / "runs").iterdir()) == []

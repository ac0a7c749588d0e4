"""Whatever happens to workers, every unit ends done or given up with its reasons, and no innocent one is given up."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.job.units import UnitQueue
from tests.pipeline.job import ray_process

# The scenarios take a minute and a half on a quiet machine, mostly to start processes.
pytestmark = pytest.mark.timeout(1800)

FINE = {f"fine-{number}" for number in range(8)}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All scenarios, on one local Ray: starting it takes longer than playing most of them."""
    return ray_process.report("tests.pipeline.job.loop_scenarios", tmp_path_factory.mktemp("loop"))


def events(scene: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [event for event in scene["events"] if event["event"] == name]


def failed(scene: dict[str, Any]) -> dict[str, list[str]]:
    return {failure["unit"]: failure["reasons"] for failure in scene["failures"]}


def accounted(scene: dict[str, Any]) -> list[str]:
    return sorted([*scene["done"], *failed(scene), *scene["interrupted"], *scene["not_started"]])


def test_all_done_where_nothing_goes_wrong(played: dict[str, Any]) -> None:
    scene = played["no_fault"]
    assert set(scene["done"]) == FINE
    assert (scene["failures"], scene["interrupted"], scene["not_started"], scene["stopped"]) == ([], [], [], None)
    assert all(event["attempt"] == 1 for event in events(scene, "UnitDone"))


def test_no_units_start_no_worker(played: dict[str, Any]) -> None:
    assert played["no_units"]["done"] == {}
    assert played["no_units"]["num_actors"] == 0


def test_a_worker_killed_from_outside_costs_one_attempt(played: dict[str, Any]) -> None:
    scene = played["killed_from_outside"]
    assert set(scene["done"]) == FINE | {"slow-0"}
    assert scene["done"]["slow-0"]["attempt"] == 2
    assert [event["unit"] for event in events(scene, "UnitRetried")] == ["slow-0"]
    assert len(events(scene, "WorkerLost")) == 1


def test_a_unit_that_kills_its_worker_is_given_up_alone(played: dict[str, Any]) -> None:
    scene = played["poison"]
    assert set(scene["done"]) == FINE
    assert all(result["attempt"] == 1 for result in scene["done"].values()), "an innocent unit was blamed"
    (reasons,) = failed(scene).values()
    assert sum(reason.startswith("worker process died (") for reason in reasons) == 3
    assert "Worker exit" in reasons[0]


def test_a_unit_that_exits_its_worker_is_given_up(played: dict[str, Any]) -> None:
    scene = played["exits"]
    assert set(scene["done"]) == {"fine-0", "fine-1"}
    assert "exit code 3" in failed(scene)["exit-0"][0]


def test_an_exception_counts_and_keeps_the_worker(played: dict[str, Any]) -> None:
    scene = played["raises"]
    assert set(scene["done"]) == FINE | {"both-0"}
    assert failed(scene) == {"raise-0": ["ValueError: cannot read raise-0"] * 3}
    assert events(scene, "WorkerLost") == []
    retried, given_up = events(scene, "UnitRetried"), events(scene, "UnitFailed")
    assert "in run" in given_up[0]["traceback"]
    # Tried again after all untouched ones, and by the worker that had not failed on it.
    order = [event["unit"] for event in events(scene, "UnitStarted")]
    assert order.index("fine-7") < order.index("raise-0", 2)
    assert len({event["worker"] for event in retried}) == 2


def test_a_lost_device_replaces_the_worker(played: dict[str, Any]) -> None:
    scene = played["device_lost"]
    assert set(scene["done"]) == FINE | {"cuda-0", "spent-0"}
    reasons = [event["reason"] for event in events(scene, "WorkerLost")]
    assert sorted(reason.split(":")[0] for reason in reasons) == ["CudaLikeError", "SpentWorkerError"]


def test_a_hung_unit_is_ended(played: dict[str, Any]) -> None:
    scene = played["hangs"]
    assert set(scene["done"]) == FINE
    assert failed(scene) == {"hang-0": ["hung: no result within 8 s"] * 2}


def test_boots_that_die_are_capped(played: dict[str, Any]) -> None:
    scene = played["boots_die"]
    assert (scene["raised"], scene["code"]) == ("WorkerBootError", "worker-boot-failed")
    assert "worker process died" in scene["actual"]
    assert 3 <= len(events(scene, "WorkerBootFailed")) <= 5


def test_one_boot_that_dies_is_repeated(played: dict[str, Any]) -> None:
    scene = played["first_boot_dies"]
    assert set(scene["done"]) == FINE
    assert len(events(scene, "WorkerBootFailed")) == 1


def test_an_error_for_the_user_at_boot_is_raised_as_it_is(played: dict[str, Any]) -> None:
    scene = played["mismatch"]
    assert (scene["raised"], scene["code"]) == ("IdentityMismatchError", "identity-differs")
    assert events(scene, "WorkerBootFailed") == []


def test_a_store_that_is_down_at_boot_is_tried_again(played: dict[str, Any]) -> None:
    scene = played["store_down"]
    assert (scene["raised"], scene["code"]) == ("StorageError", "storage-failed")
    assert len(events(scene, "WorkerBootFailed")) >= 2


def test_workers_that_never_get_ready_are_announced_and_given_up(played: dict[str, Any]) -> None:
    scene = played["boot_hangs"]
    assert (scene["raised"], scene["code"]) == ("WorkerBootError", "workers-not-ready")
    assert "2 CPU" in scene["actual"]
    assert len(events(scene, "WaitingForWorkers")) >= 2


def test_a_stop_lets_units_in_flight_finish(played: dict[str, Any]) -> None:
    scene = played["stop"]
    assert scene["stopped"] is not None
    assert scene["interrupted"] == []
    assert 4 <= len(scene["done"]) <= 6
    assert len(scene["done"]) + len(scene["not_started"]) == 100_000


def test_a_stop_cuts_off_what_outlasts_the_grace_time(played: dict[str, Any]) -> None:
    scene = played["stop_cuts_off"]
    assert scene["interrupted"] == ["hang-0"]
    assert accounted(scene) == sorted(["fine-0", "fine-1", "fine-2", "fine-3", "fine-9", "hang-0", "hang-1"])
    assert scene["seconds"] < 600, "it waited for what hangs"


def test_stragglers_are_seen_once_and_not_repeated(played: dict[str, Any]) -> None:
    scene = played["straggler"]
    assert sorted(event["unit"] for event in events(scene, "Straggler")) == ["straggle-0", "straggle-1"]
    assert all(event["attempt"] == 1 for event in events(scene, "UnitStarted"))
    assert {event["figures"] for event in events(scene, "WorkerProgress")} >= {"straggle-0", "straggle-1"}


def test_a_job_in_which_everything_fails_stops_before_it_gives_anything_up(played: dict[str, Any]) -> None:
    scene = played["all_fail"]
    assert "5 units failed in a row" in scene["stopped"]
    assert scene["failures"] == []
    assert len(accounted(scene)) == 1000


def test_a_worker_has_its_next_unit_before_it_has_done_the_first(played: dict[str, Any]) -> None:
    scene = played["two_in_hand"]
    assert set(scene["done"]) == FINE | {"meet-0", "meet-1"}
    assert all(event["attempt"] == 1 for event in events(scene, "UnitStarted"))
    assert len({result["pid"] for result in scene["done"].values()}) == 1


def test_a_death_with_two_suspects_is_blamed_on_none_and_each_is_tried_alone(played: dict[str, Any]) -> None:
    scene = played["two_poison"]
    assert set(scene["done"]) == FINE | {"slow-0"}
    (reasons,) = failed(scene).values()
    assert [reason.endswith("so nothing is known of the cause") for reason in reasons] == [True, False, False, False]
    innocent = [event for event in events(scene, "UnitRetried") if event["unit"] != "kill-0"]
    assert [(event["unit"], event["counted"]) for event in innocent] == [("slow-0", False)]
    order = [(event["event"], event.get("unit")) for event in scene["events"] if event["event"].startswith("Unit")]
    second = order.index(("UnitStarted", "slow-0"), 1 + order.index(("UnitStarted", "slow-0")))
    assert order[second + 1] == ("UnitDone", "slow-0"), "it was not alone"


def test_an_exception_leaves_the_other_unit_in_hand_alone(played: dict[str, Any]) -> None:
    scene = played["two_raise"]
    assert set(scene["done"]) == FINE
    assert all(result["attempt"] == 1 for result in scene["done"].values())
    assert failed(scene) == {"raise-0": ["ValueError: cannot read raise-0"] * 3}


def test_a_unit_that_hangs_beside_another_is_given_up_and_the_other_is_not(played: dict[str, Any]) -> None:
    scene = played["two_hang"]
    assert set(scene["done"]) == FINE
    (reasons,) = failed(scene).values()
    assert [reason.partition(";")[0] for reason in reasons] == ["hung: no result within 8 s"] * len(reasons)
    assert sum("nothing is known" not in reason for reason in reasons) == 2


def test_workers_that_all_die_with_two_in_hand_stop_the_job_as_well(played: dict[str, Any]) -> None:
    scene = played["two_all_die"]
    assert "3 units failed in a row" in scene["stopped"]
    assert scene["failures"] == []
    assert len(accounted(scene)) == 1000
    assert len(scene["interrupted"]) == 6, "three pairs"


def test_a_stop_lets_both_in_hand_finish(played: dict[str, Any]) -> None:
    scene = played["two_stop"]
    assert scene["interrupted"] == []
    assert 4 <= len(scene["done"]) <= 6
    assert len(accounted(scene)) == 1000


def test_no_worker_has_two_while_another_has_none(played: dict[str, Any]) -> None:
    scene = played["two_for_two"]
    first_two = events(scene, "UnitStarted")[:2]
    assert len({event["worker"] for event in first_two}) == 2
    assert len(events(scene, "UnitDone")) == 3


@pytest.mark.parametrize(("name", "said"), [("store_full", "storage-full"), ("disk_full", "No space left")])
def test_a_full_store_or_disk_stops_the_job_and_is_no_units_fault(played: dict[str, Any], name: str, said: str) -> None:
    scene = played[name]
    assert said in scene["stopped"]
    assert scene["failures"] == []
    assert [event["counted"] for event in events(scene, "UnitRetried")] == [False]
    assert len(scene["interrupted"]) == 1


def test_many_units_are_all_done(played: dict[str, Any]) -> None:
    """What scheduling costs is measured by `benchmarks/scale`."""
    scene = played["many"]
    assert len(scene["done"]) == 2000
    assert scene["num_actors"] == 2


def test_a_lost_node_costs_its_unit_no_attempt(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(os.urandom(32).hex())
    # The names of Ray's sockets would be too long below tmp_path.
    with tempfile.TemporaryDirectory(prefix="eo-") as short:
        variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": short}
        scene = ray_process.report("tests.pipeline.job.node_loss_scenario", tmp_path, variables=variables)
    assert set(scene["done"]) == {f"slow-{number}" for number in range(4)}
    (retried,) = events(scene, "UnitRetried")
    assert [retried["unit"]] == scene["lost"]
    assert retried["counted"] is False
    assert retried["reason"].startswith("node lost (")


class TestUnitQueue:
    """Order and attempts, without workers."""

    def test_untouched_units_come_first(self) -> None:
        queue = UnitQueue("abc", max_attempts=3, max_lost_attempts=10)
        assert queue.take(0, {0, 1}) == ("a", 1)
        assert queue.fail("a", 0, "x", counted=True) is None
        assert [queue.take(1, {0, 1}) for _ in range(4)] == [("b", 1), ("c", 1), ("a", 2), None]

    def test_a_retry_waits_for_another_worker_while_one_lives(self) -> None:
        queue = UnitQueue("a", max_attempts=3, max_lost_attempts=10)
        assert queue.take(0, {0, 1}) == ("a", 1)
        queue.fail("a", 0, "x", counted=True)
        assert queue.take(0, {0, 1}) is None
        assert queue.take(0, {0}) == ("a", 2)

    def test_lost_attempts_count_only_against_their_own_limit(self) -> None:
        queue = UnitQueue("a", max_attempts=2, max_lost_attempts=4)
        for attempt in range(1, 4):
            assert queue.take(0, {0}) == ("a", attempt)
            assert queue.fail("a", 0, f"lost {attempt}", counted=False) is None
        assert queue.take(0, {0}) == ("a", 4)
        failure = queue.fail("a", 0, "lost 4", counted=False)
        assert failure is not None
        assert failure.reasons == ("lost 1", "lost 2", "lost 3", "lost 4")
        assert queue.num_waiting(1) == 0

    def test_a_long_source_is_read_only_as_far_as_needed(self) -> None:
        taken = []
        queue = UnitQueue((taken.append(n) or str(n) for n in range(10**9)), max_attempts=3, max_lost_attempts=10)
        assert queue.num_waiting(5) == 5
        assert queue.take(0, {0}) == ("0", 1)
        assert len(taken) == 5

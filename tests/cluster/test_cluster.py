"""A Ray cluster whose nodes join, die and are cut off while a job runs: the dataset is as if nothing had happened."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.cluster import jobs
from tests.cluster.hosts import require_hosts
from tests.cluster.ray_hosts import QUICK_TO_NOTICE, ray_hosts
from tests.cluster.scenarios import Stage, node_added_then_killed, two_drivers, zombie_behind_a_cut

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    require_hosts()
    folder = tmp_path_factory.mktemp("cluster")
    tars = jobs.make_inputs(folder)
    with ray_hosts(**QUICK_TO_NOTICE) as cluster:
        cluster.add_node(**jobs.paced(folder))
        yield Stage(cluster, tars, jobs.undisturbed(cluster, tars, folder / "expected"), folder)


def test_two_drivers_at_once(stage: Stage) -> None:
    print(two_drivers(stage))


def test_a_submitted_job_uses_a_node_that_joins_and_survives_one_that_dies(stage: Stage) -> None:
    print(node_added_then_killed(stage, random.Random(20261123)))


def test_a_zombie_behind_a_cut_link_cannot_overwrite(stage: Stage) -> None:
    print(zombie_behind_a_cut(stage))

"""What ranks tell each other before a step."""

from __future__ import annotations

import pytest

from schemas.errors import ConfigError, DamagedDataError
from tests.trainer.thread_ranks import ThreadRank, on_ranks
from trainer.agreement import Agreement, RankFailedError, agree, require_same_everywhere, together

DAMAGED = DamagedDataError("chunk-damaged", where="a.arrow at byte 7", expected="1", actual="2", remedy="encode again")


def test_ranks_agree_on_passes_samples_and_the_end() -> None:
    found = on_ranks(3, lambda r: agree(r, num_passes=[1, 3, 0][r.rank], num_valid=[8, 7, 0][r.rank]))
    assert found == [Agreement(num_passes=3, num_valid=15, stopping=False)] * 3
    found = on_ranks(2, lambda r: agree(r, num_passes=1, num_valid=2**40, stopping=r.rank == 1))
    assert found == [Agreement(num_passes=1, num_valid=2**41, stopping=True)] * 2
    found = on_ranks(2, lambda r: agree(r, num_passes=1, num_valid=1, seconds=[0.25, 0.125][r.rank]))
    assert [agreement.seconds for agreement in found if isinstance(agreement, Agreement)] == [0.25, 0.25]


def test_error_of_one_rank_reaches_all() -> None:
    def work(rank: ThreadRank) -> Agreement:
        return agree(rank, num_passes=1, num_valid=1, error=DAMAGED if rank.rank == 1 else None)

    first, own, third = on_ranks(3, work)
    assert own is DAMAGED
    for error in (first, third):
        assert isinstance(error, RankFailedError)
        assert error.code == "rank-failed"
        assert error.where == "rank 1 of 3"
        assert "a.arrow at byte 7" in error.actual
        assert "encode again" in error.actual


def test_errors_that_are_not_ours_are_named() -> None:
    def work(rank: ThreadRank) -> Agreement:
        return agree(rank, num_passes=0, num_valid=0, error=OSError("no such disk") if rank.rank == 0 else None)

    own, other = on_ranks(2, work)
    assert isinstance(own, OSError)
    assert "OSError: no such disk" in str(other)


def test_together_gives_each_its_result_or_fails_on_all() -> None:
    assert on_ranks(2, lambda r: together(r, lambda: r.rank * 10)) == [0, 10]

    def work(rank: ThreadRank) -> int:
        return together(rank, lambda: 1 // rank.rank)

    own, other = on_ranks(2, work)
    assert isinstance(own, ZeroDivisionError)
    assert isinstance(other, RankFailedError)


@pytest.mark.parametrize("changed", [0, 2])
def test_ranks_that_see_other_data_are_refused(changed: int) -> None:
    digests = ["abcdef012345" + "0" * 52] * 3
    assert on_ranks(3, lambda r: require_same_everywhere(r, digests[r.rank], what="data")) == [None] * 3
    digests[changed] = "abcdef012346" + "0" * 52
    for error in on_ranks(3, lambda r: require_same_everywhere(r, digests[r.rank], what="data")):
        assert isinstance(error, ConfigError)
        assert error.code == "ranks-differ"

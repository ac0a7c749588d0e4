"""The short form: each target for some cases, the same on every machine; and every case that once broke something."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.all_targets import TARGETS
from tests.fuzz.target import Finding, Target, judge

BROKE_ONCE = Path(__file__).parents[1] / "golden" / "fuzzed"
_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_nothing_but_an_error_comes_of_it(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=target.in_ci, suppress_health_check=_SLOW, deadline=None)
    @given(random=st.randoms(use_true_random=False))
    def read(random: Random) -> None:
        judge(target, target.make(random))

    read()


@pytest.mark.parametrize("path", sorted(BROKE_ONCE.iterdir()), ids=lambda path: path.name)
def test_what_broke_something_once_does_not_again(path: Path) -> None:
    judge(TARGETS[path.name.split(".")[0]], path.read_bytes())


def test_a_case_must_not_raise_another_error_hang_or_take_memory() -> None:
    def hang(data: bytes) -> str:
        while True:
            pass

    def nothing(random: Random) -> bytes:
        return random.randbytes(1)

    kept: list[bytearray] = []

    def bomb(data: bytes) -> str:
        kept.append(bytearray(b"x") * (3 * 2**30 // 8))
        kept.clear()
        return "too much"

    for read, message in ((hang, "still running"), (bomb, "MB for"), (lambda data: str(data[9]), "IndexError")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.fuzz.target.MAX_SECONDS", 3.0)
            with pytest.raises(Finding, match=message):
                judge(Target("broken", nothing, read, 1), b"")

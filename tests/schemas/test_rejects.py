"""Rejects: one line each, whatever the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas.rejects
from schemas.errors import DamagedDataError
from schemas.rejects import Reject, dump_rejects, load_rejects

TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["a\u2028b", "\u2029", "\x85", "\r\n", "\0", '"']
)
REJECTS = st.builds(
    Reject,
    key=st.none() | TEXT,
    code=TEXT,
    reason=TEXT,
    member=st.none() | TEXT,
    offset=st.none() | st.integers(0, 2**63),
    has_row=st.booleans(),
)


@given(rejects=st.lists(REJECTS, max_size=5))
def test_round_trip(rejects: list[Reject]) -> None:
    data = dump_rejects(rejects)
    assert data.count(b"\n") == len(rejects)
    assert load_rejects(data, where="x") == rejects


def test_line_separators_in_text() -> None:
    """Python's splitlines would cut at each of these."""
    rejects = [Reject(key="a\u2028b\u2029c\x85d\x0be\x0cf\x1cg", code="c", reason="r")]
    assert load_rejects(dump_rejects(rejects), where="x") == rejects


@pytest.mark.parametrize("data", [b"{}\n", b"[]\n", b"null\n", b"\xff\n", b'{"key":null,"code":"c"}\n', b"x" * 10])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedDataError, match="rejects-unreadable"):
        load_rejects(data, where="x")


def test_more_lines_than_there_may_be_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reject = Reject(key="a", code="c", reason="r")
    monkeypatch.setattr(schemas.rejects, "MAX_REJECTS", 3)
    assert load_rejects(dump_rejects([reject] * 3), where="x") == [reject] * 3
    with pytest.raises(DamagedDataError, match="4 lines, more than 3"):
        load_rejects(dump_rejects([reject] * 4), where="x")


def test_a_million_lines_and_one_are_refused() -> None:
    # Each would be an error of its own: counted first, none is parsed.
    with pytest.raises(DamagedDataError, match="1000001 lines, more than 1000000"):
        load_rejects(b"\n" * 1_000_001, where="x")
    assert load_rejects(b"\n" * 1_000_000, where="x") == []

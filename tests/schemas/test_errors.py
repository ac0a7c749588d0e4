"""Errors carry their five facts, also through a process boundary and in the message."""

from __future__ import annotations

import pickle  # noqa: TID251 - what Ray does to an error that crosses a process boundary
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from schemas import errors

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ValueError)]
FACTS = {"where": "s3://b/ü", "expected": "one", "actual": "two\nlines", "remedy": "do this"}


def fail() -> None:
    raise errors.MissingObjectError("object-missing", **FACTS)


@pytest.mark.parametrize("kind", CLASSES)
def test_pickling_keeps_everything(kind: type[errors.EncodeOnceError]) -> None:
    error = kind("some-code", **FACTS)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(copy) is kind
    assert {name: getattr(copy, name) for name in FACTS} == FACTS
    assert copy.code == "some-code"
    assert str(copy) == str(error)
    assert isinstance(copy, ValueError)


def test_across_processes() -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(errors.MissingObjectError, match="object-missing") as caught,
    ):
        pool.submit(fail).result()
    assert caught.value.remedy == "do this"


def test_the_message_says_it_all() -> None:
    text = str(errors.ContractError("some-code", **FACTS))
    for fact in ("some-code", "s3://b/ü", "one", r"two\nlines", "do this"):
        assert fact in text


@pytest.mark.parametrize("name", FACTS)
def test_what_a_stranger_chose_cannot_pass_for_a_line_of_ours(name: str) -> None:
    text = str(
        errors.ContractError("some-code", **{**FACTS, name: "a\x1b]0;title\x07\nok\r\n  actual: \u202e\x9b2J\udcff"})
    )
    assert len(text.splitlines()) == 4
    assert text.replace("\n", "").isprintable()
    assert r"a\x1b]0;title\x07\nok\r\n  actual: \u202e\x9b2J\udcff" in text


def test_a_list_of_ours_keeps_its_lines() -> None:
    text = str(errors.ContractError("some-code", **{**FACTS, "actual": "these:\n    one\x1b[2J\n    two"}))
    assert text.splitlines()[2:5] == ["  actual:   these:", r"    one\x1b[2J", "    two"]


def test_the_family() -> None:
    assert len(CLASSES) == 8
    assert issubclass(errors.MissingObjectError, errors.StorageError)

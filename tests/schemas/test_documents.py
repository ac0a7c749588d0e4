"""Documents: what is sealed is read back, and no changed byte passes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.documents import canonical, digest, seal, unseal
from schemas.errors import DamagedDataError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3), max_leaves=8
)
BODIES = st.dictionaries(st.text().filter(lambda name: name != "sha256"), VALUES, max_size=5)

DIGEST = "eaaae414a430cce42319d50a51d36320ebe2f6dc9ffca1cd7541c6201ba2df6a"


@given(body=BODIES, for_people=st.booleans())
def test_round_trip(body: dict[str, object], for_people: bool) -> None:
    assert unseal(seal(body, for_people=for_people), where="x") == body


@given(body=BODIES, for_people=st.booleans(), data=st.data())
def test_every_flipped_bit_is_found(body: dict[str, object], for_people: bool, data: st.DataObject) -> None:
    sealed = bytearray(seal(body, for_people=for_people))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedDataError, match="document-damaged"):
        unseal(bytes(sealed), where="x")


@given(data=st.binary(max_size=200))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedDataError):
        unseal(data, where="x")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"sha256":1}',
        b'{"a":NaN,"sha256":"00"}',
        b'{"a":1e999,"sha256":"00"}',
        b'{"a":"\\ud800","sha256":"00"}',
        b"[" * 100_000,
        b'{"a":' + b"9" * 10_000 + b',"sha256":"00"}',
        b"\xff\xfe{}",
    ],
)
def test_hostile_documents(data: bytes) -> None:
    with pytest.raises(DamagedDataError, match="document-damaged"):
        unseal(data, where="here")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('{"a"', '{ "a"'),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("é", "\\u00e9"),
        lambda text: text.replace('"a":1', '"a":1.0'),
        lambda text: text.replace('"a":1', '"a":1,"a":1'),
        lambda text: "\ufeff" + text,
    ],
)
def test_another_spelling_of_the_same_content_is_refused(change: object) -> None:
    text = seal({"a": 1, "b": "é"}).decode()
    changed = change(text)
    assert changed != text
    with pytest.raises(DamagedDataError):
        unseal(changed.encode(), where="x")


def test_the_spelling_never_changes() -> None:
    """Digests of stored datasets hang on it."""
    body = {"b": [1, 0.5, None, True], "a": {"é\u2028": "x\n"}}
    assert canonical(body) == '{"a":{"é\u2028":"x\\n"},"b":[1,0.5,null,true]}'.encode()
    assert digest(body) == DIGEST
    assert json.loads(seal(body, for_people=True))["sha256"] == digest(body)

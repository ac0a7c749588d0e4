"""Ledger records: what is refused, and what their digests are over."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.documents import seal
from schemas.errors import ContractError, DamagedDataError
from schemas.ledger import LedgerRecord, keys_sha256, list_committed, load_record, read_record, record_path
from schemas.storage import Store
from tests.datasets import make_manifest, samples, write_dataset


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> LedgerRecord:
    folder = tmp_path_factory.mktemp("ledger")
    write_dataset(str(folder), make_manifest(), {"txt": {"s": samples(9, missing=[4])}})
    found = read_record(Store(str(folder)), "txt", "s")
    assert found is not None
    return found


def test_round_trip(record: LedgerRecord) -> None:
    assert load_record(record.dump(), where="x") == record
    assert record.num_rows == sum(chunk.num_rows for _, chunk in record.chunks()) == 9
    assert record.num_bytes == sum(part.num_bytes for part in record.parts)


@pytest.mark.parametrize(
    "change",
    [
        {"num_inputs": 10},
        {"num_rows": 8},
        {"num_encoded": 10, "num_rejects": -1},
        {"num_encoded": 9, "num_rejects": 1, "num_inputs": 10, "num_rows": 8},
        {"keys_sha256": "short"},
        {"identity_sha256": None},
        {"parts": None},
        {"rejects": {"num_bytes": 1}},
        {"unknown": 1},
        {"group": 5},
    ],
)
def test_wrong_fields_and_sums(record: LedgerRecord, change: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="ledger-record-invalid"):
        load_record(seal(record.model_dump(mode="json") | change), where="x")


@pytest.mark.parametrize(
    "change", [{"offset": -1}, {"num_bytes": 0}, {"num_rows": 0}, {"xxh3_64": "0"}, {"xxh3_64": "G" * 16}]
)
def test_wrong_chunks(record: LedgerRecord, change: dict[str, Any]) -> None:
    body = record.model_dump(mode="json")
    body["parts"][0]["chunks"][0] |= change
    with pytest.raises(ContractError, match="ledger-record-invalid"):
        load_record(seal(body), where="x")


def test_a_damaged_record(record: LedgerRecord) -> None:
    with pytest.raises(DamagedDataError, match="document-damaged"):
        load_record(record.dump().replace(b'"num_rows":9', b'"num_rows":8'), where="x")


def test_keys_digest_is_as_specified() -> None:
    """SPEC.md: each key as its UTF-8 length (8 bytes, little-endian) and its bytes."""
    data = b"".join(len(key).to_bytes(8, "little") + key for key in (b"a", "é".encode(), b""))
    assert keys_sha256(["a", "é", ""]) == hashlib.sha256(data).hexdigest()


@given(left=st.lists(st.text(max_size=3), max_size=4), right=st.lists(st.text(max_size=3), max_size=4))
def test_keys_digests_are_equal_only_for_equal_keys(left: list[str], right: list[str]) -> None:
    assert (keys_sha256(left) == keys_sha256(right)) == (left == right)


def test_what_is_committed(tmp_path: Path, record: LedgerRecord) -> None:
    store = Store(str(tmp_path))
    assert list_committed(store) == {}
    assert read_record(store, "txt", "s") is None
    for group, shard in (("txt", "a/b/c"), ("json.x", "a/b/c"), ("txt", "z.y")):
        store.create(record_path(group, shard), record.dump())
    store.create(f"ledger/txt/z.json.tmp-{'0' * 32}", b"left behind")
    assert list_committed(store) == {"txt": {"a/b/c", "z.y"}, "json.x": {"a/b/c"}}

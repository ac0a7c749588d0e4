"""The index: the ledger's records byte for byte, under one digest."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.documents import seal
from schemas.errors import DamagedDataError
from schemas.index import INDEX_PATH, dump_index, load_index, read_ledger, records_from_ledger, write_index
from schemas.ledger import record_path
from schemas.storage import Store
from tests.datasets import make_manifest, samples, write_dataset

IDENTITY = "ab" * 32
RECORDS = {(group, f"s/{n:05d}"): seal({"num_rows": n, "é": "\u2028"}) for group in ("txt", "json.x") for n in range(3)}
INDEX = dump_index(RECORDS, IDENTITY, where="x")


def test_it_holds_the_ledger_sorted() -> None:
    table = load_index(INDEX, where="x")
    names = list(zip(table["group"].to_pylist(), table["shard"].to_pylist(), strict=True))
    assert names == sorted(RECORDS)
    assert table["record"].to_pylist() == [RECORDS[name] for name in names]
    assert table["num_rows"].to_pylist() == [0, 1, 2, 0, 1, 2]
    assert dump_index(dict(reversed(RECORDS.items())), IDENTITY, where="x") == INDEX


@given(bit=st.integers(0, 8 * len(INDEX) - 1))
def test_every_flipped_bit_is_found(bit: int) -> None:
    flipped = bytearray(INDEX)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedDataError, match="index-damaged"):
        load_index(bytes(flipped), where="x")


@example(INDEX[:8])
@example(INDEX[:12])
@given(data=st.binary(max_size=100) | st.integers(0, len(INDEX) - 1).map(lambda cut: INDEX[:cut]))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedDataError, match="index-damaged"):
        load_index(data, where="x")


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 2500])
def test_any_number_of_records(count: int) -> None:
    records = {("txt", f"{n:05d}"): seal({"num_rows": n}) for n in range(count)}
    table = load_index(dump_index(records, IDENTITY, where="x"), where="x")
    assert table["num_rows"].to_pylist() == list(range(count))


def test_records_that_differ_in_little_but_their_names() -> None:
    """A thousand tars without a caption: the index compresses far better than one of digests, and is no bomb."""
    body = {"num_rows": 0, "parts": [], "stats": {}, "writer": {"versions": {"x": "1" * 1500}}}
    records = {("txt", f"{n:05d}"): seal({"shard": f"{n:05d}", **body}) for n in range(1000)}
    index = dump_index(records, IDENTITY, where="x")
    assert sum(map(len, records.values())) > 16 * len(index)
    assert load_index(index, where="x").num_rows == 1000


def test_a_damaged_record_does_not_enter_it() -> None:
    with pytest.raises(DamagedDataError, match=r"ledger/txt/s\.json"):
        dump_index({("txt", "s"): seal({"num_rows": 1}).replace(b"1", b"2")}, IDENTITY, where="x")


def test_it_is_made_from_the_ledger(tmp_path: Path) -> None:
    manifest = make_manifest()
    rows = {"a/b": samples(3), "c": samples(2)}
    store: Store = write_dataset(str(tmp_path), manifest, {"txt": rows, "json.x": rows})
    before = store.get(INDEX_PATH)
    assert write_index(store, manifest.identity_sha256) == 4
    assert store.get(INDEX_PATH) == before
    assert sorted(read_ledger(store)) == [("json.x", "a/b"), ("json.x", "c"), ("txt", "a/b"), ("txt", "c")]
    assert [record.shard for record in records_from_ledger(store)] == ["a/b", "c", "a/b", "c"]
    store.replace(record_path("txt", "c"), b"damaged")
    with pytest.raises(DamagedDataError, match="document-damaged"):
        write_index(store, manifest.identity_sha256)
    assert store.get(INDEX_PATH) == before

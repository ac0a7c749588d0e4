"""The commit: the first record wins, a late writer changes nothing, and nothing is committed without its parts."""

from __future__ import annotations

import hashlib
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import schemas.commit
from schemas.commit import StoredRejects, commit, prepare_rejects, store_parts
from schemas.errors import ContractError, MissingObjectError
from schemas.ledger import LedgerRecord, Part, part_path, read_record, record_path, rejects_path
from schemas.limits import MAX_DOCUMENT_BYTES
from schemas.manifest import Layout
from schemas.parts import BuiltPart
from schemas.rejects import Reject, load_rejects
from schemas.storage import Store
from tests.datasets import make_manifest, samples, write_shard

REJECTS = prepare_rejects([Reject(key="00002", code="caption-missing", reason="no caption")])


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Store, LedgerRecord]:
    """A shard whose parts are stored and whose record is not."""
    store = Store(str(tmp_path))
    record = write_shard(store, make_manifest(), "txt", "a/b", samples(6, missing=[2]))
    store.delete([record_path("txt", "a/b"), rejects_path("txt", "a/b")])
    return store, record


def test_the_first_record_wins(prepared: tuple[Store, LedgerRecord]) -> None:
    store, record = prepared
    assert commit(store, record, REJECTS)
    assert read_record(store, "txt", "a/b") == record
    late = record.model_copy(update={"writer": record.writer.model_copy(update={"attempt": 2}), "rejects": None})
    assert not commit(store, late, StoredRejects(b"", None))
    assert read_record(store, "txt", "a/b") == record
    assert len(load_rejects(store.get(rejects_path("txt", "a/b")), where="x")) == 1


def test_one_of_many_wins(prepared: tuple[Store, LedgerRecord]) -> None:
    store, record = prepared
    attempts = [
        record.model_copy(update={"writer": record.writer.model_copy(update={"attempt": number})})
        for number in range(8)
    ]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda attempt: commit(store, attempt, REJECTS), attempts))
    assert won.count(True) == 1
    assert read_record(store, "txt", "a/b") == attempts[won.index(True)]


def test_a_zombie_does_not_touch_the_winners_rejects(prepared: tuple[Store, LedgerRecord]) -> None:
    store, record = prepared
    assert commit(store, record, REJECTS)
    other = prepare_rejects([Reject(key="00002", code="caption-missing", reason="another sentence")])
    zombie = record.model_copy(update={"rejects": other.entry})
    assert not commit(store, zombie, other)
    assert store.get(rejects_path("txt", "a/b")) == REJECTS.data


def test_a_zombie_that_saw_no_record_does_not_touch_the_winners_rejects(
    prepared: tuple[Store, LedgerRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cut off between its look at the ledger and its next word, and somebody else commits meanwhile."""
    store, record = prepared
    other = prepare_rejects([Reject(key="00002", code="caption-missing", reason="another sentence")])
    zombie = record.model_copy(update={"rejects": other.entry})
    look = schemas.commit._require_stored

    def be_cut_off(*arguments: Any) -> None:
        monkeypatch.setattr("schemas.commit._require_stored", look)
        assert commit(store, record, REJECTS)

    monkeypatch.setattr("schemas.commit._require_stored", be_cut_off)
    assert not commit(store, zombie, other)
    assert read_record(store, "txt", "a/b") == record
    assert store.get(rejects_path("txt", "a/b")) == REJECTS.data


def test_rejects_left_by_a_dead_attempt_are_replaced(prepared: tuple[Store, LedgerRecord]) -> None:
    store, record = prepared
    store.replace(rejects_path("txt", "a/b"), b"of an attempt that died")
    assert commit(store, record, REJECTS)
    assert store.get(rejects_path("txt", "a/b")) == REJECTS.data


def test_many_rejects_left_by_a_dead_attempt_are_replaced(prepared: tuple[Store, LedgerRecord]) -> None:
    """A rejects file may be larger than a document."""
    store, record = prepared
    store.create(rejects_path("txt", "a/b"), b"{}\n" * (MAX_DOCUMENT_BYTES // 3 + 1))
    assert commit(store, record, REJECTS)
    assert store.get(rejects_path("txt", "a/b")) == REJECTS.data


@pytest.mark.parametrize(("limit", "most"), [("MAX_REJECTS", 1), ("MAX_REJECTS_BYTES", len(REJECTS.data))])
def test_no_rejects_that_readers_refuse(monkeypatch: pytest.MonkeyPatch, limit: str, most: int) -> None:
    reject = Reject(key="00002", code="caption-missing", reason="no caption")
    monkeypatch.setattr(schemas.commit, limit, most)
    assert prepare_rejects([reject]) == REJECTS
    with pytest.raises(ContractError, match="rejects-too-many"):
        prepare_rejects([reject, reject])


def test_no_commit_without_its_parts(prepared: tuple[Store, LedgerRecord]) -> None:
    store, record = prepared
    path = part_path("a/b", record.parts[-1].name)
    data = store.get(path)
    store.delete([path])
    with pytest.raises(MissingObjectError, match="part-vanished"):
        commit(store, record, REJECTS)
    store.replace(path, data[:-1])
    with pytest.raises(ContractError, match="part-size"):
        commit(store, record, REJECTS)
    assert read_record(store, "txt", "a/b") is None
    assert store.head(rejects_path("txt", "a/b")) is None
    store.replace(path, data)
    assert commit(store, record, REJECTS)


def test_no_rejects_no_file(tmp_path: Path) -> None:
    assert prepare_rejects([]) == StoredRejects(b"", None)
    store = Store(str(tmp_path))
    assert write_shard(store, make_manifest(), "txt", "s", samples(2)).rejects is None
    assert list(store.list("rejects")) == []


def test_a_record_whose_answer_was_lost_is_ones_own(
    prepared: tuple[Store, LedgerRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store took it, the connection broke, and the retry finds it there."""
    store, record = prepared
    create = Store.create

    def lost(self: Store, path: str, data: bytes) -> bool:
        return create(self, path, data) and "ledger" not in path

    monkeypatch.setattr(Store, "create", lost)
    assert commit(store, record, REJECTS)
    monkeypatch.undo()
    assert not commit(store, record, REJECTS), "there already, by whomever"


def test_a_stored_part_is_let_go_while_the_next_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are what bounds a worker's memory: a stored one must not wait for the next."""
    stored = threading.Event()
    held: list[bool] = []

    class Recorded(Store):
        def create_content_addressed(self, path: str, chunks: Iterable[bytes], num_bytes: int) -> bool:
            new = super().create_content_addressed(path, chunks, num_bytes)
            stored.set()
            return new

    class Pieces(list[bytes]):
        """A list that can be watched."""

    def built(name: str) -> tuple[BuiltPart, weakref.ref[Pieces]]:
        pieces, digest = Pieces([b"abc"]), hashlib.sha256(b"abc").hexdigest()
        return BuiltPart(Part(name=name, num_bytes=3, sha256=digest, chunks=()), pieces), weakref.ref(pieces)

    def parts(*_: object) -> Iterator[BuiltPart]:
        first, watched = built("txt-00000-0123456789abcdef.arrow")
        waiting = [first]
        del first  # as in `build_parts`, no name here holds what was handed out
        yield waiting.pop()
        assert stored.wait(10)
        deadline = time.monotonic() + 100
        while watched() is not None and time.monotonic() < deadline:
            time.sleep(0.01)  # the writer's thread has returned, and is about to let go
        held.append(watched() is not None)
        yield built("txt-00001-0123456789abcdef.arrow")[0]

    monkeypatch.setattr(schemas.commit, "build_parts", parts)
    layout = Layout(container="arrow", chunk_rows=1, part_bytes=1)
    entries = store_parts(Recorded(str(tmp_path)), [], pa.schema([]), "txt", "s", layout)
    assert len(entries) == 2
    assert held == [False]

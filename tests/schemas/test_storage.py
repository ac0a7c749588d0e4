"""The storage door on local folders: atomic, durable, exclusive, and no short read unnoticed."""

from __future__ import annotations

import os
import pickle  # noqa: TID251 - what Ray does to a store that is sent to a worker
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from schemas.errors import ConfigError, DamagedDataError, MissingObjectError, StorageError, StorageFullError
from schemas.storage import TEMPORARY_SUFFIX, Store

NAMES = ["a", "a/b/c", "ä/日本 x", "a%20b", "a%2Fb", "a#1.json", "x..y", "q?*[]", "b~{}^|", "back\\slash", " lead"]


def temporary_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if TEMPORARY_SUFFIX.search(path.name)]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_written_found_read_listed_and_deleted(tmp_path: Path, name: str) -> None:
    store = Store(str(tmp_path))
    path = f"top/{name}.json"
    assert store.head(path) is None
    assert store.create(path, b"one")
    info = store.head(path)
    assert info is not None
    assert (info.path, info.num_bytes) == (path, 3)
    assert store.get(path) == b"one"
    assert store.get_range(path, 1, 2) == b"ne"
    assert [found.path for found in store.list()] == [path]
    assert [found.path for found in store.list("top")] == [path]
    assert list(store.list("to")) == []
    store.replace(path, b"other")
    assert store.get(path) == b"other"
    store.delete([path, path])
    assert store.head(path) is None
    assert temporary_files(tmp_path) == []


def test_create_is_exclusive_among_threads(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.create("x", b"")
    for number in range(20):
        with ThreadPoolExecutor(8) as pool:
            contents = [bytes([writer]) * 50_000 for writer in range(8)]
            won = list(pool.map(lambda data, n=number: store.create(f"r/{n}", data), contents))
        assert won.count(True) == 1
        assert store.get(f"r/{number}") == contents[won.index(True)]
    assert temporary_files(tmp_path) == []


def test_replace_is_atomic_among_threads(tmp_path: Path) -> None:
    """A reader sees the old or the new content, whole."""
    store = Store(str(tmp_path))
    store.replace("x", b"\0" * 100_000)
    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(store.replace, "x", bytes([n]) * 100_000) for n in range(1, 30)]
        while not all(future.done() for future in writing):
            data = store.get("x")
            assert len(data) == 100_000
            assert len(set(data)) == 1
        for future in writing:
            future.result()


@pytest.mark.parametrize("method", ["create", "replace", "create_content_addressed"])
def test_content_reaches_the_disk_before_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """What a power cut must not do: leave a name without content, or a commit that is forgotten."""
    events: list[str] = []
    target = tmp_path / "new/folder/x"
    real_fsync, real_link, real_replace = os.fsync, os.link, os.replace

    def fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        events.append(f"fsync {'content' if TEMPORARY_SUFFIX.search(path) else os.path.relpath(path, tmp_path)}")
        if "content" in events[-1]:
            assert os.path.getsize(path) == 3
            assert not target.exists()
        real_fsync(descriptor)

    def named(real: object) -> object:
        return lambda *paths: (events.append("named"), real(*paths))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", named(real_link))
    monkeypatch.setattr(os, "replace", named(real_replace))
    arguments = ([b"a", b"bc"], 3) if method == "create_content_addressed" else (b"abc",)
    getattr(Store(str(tmp_path)), method)("new/folder/x", *arguments)
    assert events == ["fsync .", "fsync new", "fsync content", "named", "fsync new/folder"]
    assert target.read_bytes() == b"abc"


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))

    def chunks() -> object:
        yield b"some"
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left") as caught:
        store.create_content_addressed("x/y", chunks(), 10)
    assert caught.value.code == "storage-full"
    assert isinstance(caught.value, StorageFullError)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_system_that_answers_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    store.create("object", bytes(range(100)))
    read = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, offset: read(file, [buffers[0][:7]], offset))
    assert store.get_range("object", 10, 50) == bytes(range(10, 60))
    assert store.get_buffer("object", 10, 50).to_pybytes() == bytes(range(10, 60))


def test_short_reads_are_errors(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.create("x", b"0123456789")
    assert store.get_range("x", 4, 6) == b"456789"
    assert store.get_range("x", 4, 0) == b""
    assert store.get_ranges("x", [0, 8], [2, 2]) == [b"01", b"89"]
    assert store.get_ranges("x", [], []) == []
    with pytest.raises(DamagedDataError, match="object-too-short"):
        store.get_range("x", 4, 7)
    with pytest.raises(DamagedDataError, match="object-too-short"):
        store.get_ranges("x", [0, 8], [2, 3])
    for offset in (10, 11, 10_000):
        with pytest.raises((DamagedDataError, StorageError)):
            store.get_range("x", offset, 1)


@pytest.mark.parametrize("url", ["{}/absent", "file://{}/absent"])
def test_a_missing_folder_is_empty_and_not_made_by_looking(tmp_path: Path, url: str) -> None:
    store = Store(url.format(tmp_path))
    assert store.head("x") is None
    assert list(store.list()) == []
    assert list(store.list("y")) == []
    for read in (lambda: store.get("x"), lambda: store.get_range("x", 0, 1), lambda: store.get_ranges("x", [0], [1])):
        with pytest.raises(MissingObjectError, match="object-missing"):
            read()
    store.delete(["x"])
    assert not (tmp_path / "absent").exists()
    assert store.create("x", b"1")
    assert store.get("x") == b"1"
    assert (tmp_path / "absent/x").read_bytes() == b"1"


def test_a_folder_made_later_is_seen(tmp_path: Path) -> None:
    reader = Store(str(tmp_path / "d"))
    assert reader.head("x") is None
    Store(str(tmp_path / "d")).create("x", b"1")
    assert reader.get("x") == b"1"


def test_an_existing_part_is_left_as_it_is(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert store.create_content_addressed("x", [b"ab", b"c"], 3)
    before = os.stat(tmp_path / "x").st_ino
    assert not store.create_content_addressed("x", [b"ab", b"c"], 3)
    assert os.stat(tmp_path / "x").st_ino == before


def test_urls() -> None:
    with pytest.raises(ConfigError, match="storage-url-invalid"):
        Store("unknown://bucket/x")
    assert Store("rel/folder/").locate("a/b") == str(Path("rel/folder/a/b").absolute())
    assert Store("s3://bucket/x/").locate("a/b") == "s3://bucket/x/a/b"
    assert Store("rel").local_root == Path("rel").absolute()
    assert Store("file:///tmp/x").local_root == Path("/tmp/x")


def test_a_store_survives_pickling(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.create("x", b"1")
    assert pickle.loads(pickle.dumps(store)).get("x") == b"1"  # noqa: S301

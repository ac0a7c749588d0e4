"""What is too large for git: long captions, members of 2 GB, tars of many samples, and what they cost in memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from pipeline.sources import list_inputs, samples, scan_tar
from pipeline.sources.caption_text import MAX_MEMBER_BYTES
from pipeline.sources.samples import MAX_DAMAGE
from pipeline.sources.tar_stream import MAX_EXTENSION_BYTES
from schemas.errors import ConfigError, DamagedDataError
from schemas.limits import MAX_CAPTION_BYTES
from tests.golden.tar_bytes import END, corrupt, header, member, pax, sample
from tests.pipeline.sources.tars import captions, scan_bytes, scan_file, summary


def test_caption_of_ten_thousand_words_is_read(tmp_path: Path) -> None:
    long = "ein sehr langer Satz, größer als nötig. " * 1500
    assert len(long.encode()) > 60_000
    scan = scan_bytes(tmp_path, sample("a", long) + sample("b", "short") + END)
    assert captions(scan) == {"a": long, "b": "short"}


def test_caption_is_too_large_from_the_next_byte_on(tmp_path: Path) -> None:
    most = "x" * MAX_CAPTION_BYTES
    data = (
        sample("a", most) + sample("b", most + "x") + member("b.json", f'{{"caption": "{most}x"}}') + sample("c", "z")
    )
    scan = scan_bytes(tmp_path, data + END, ["txt", "json.caption"])
    assert captions(scan) == {"a": most, "b": None, "c": "z"}
    assert summary(scan)["faults"] == {
        "txt": [["caption-too-large", "b"]],
        "json.caption": [["caption-missing", "a"], ["caption-too-large", "b"], ["caption-missing", "c"]],
    }


def test_json_around_a_caption_may_be_larger_than_it(tmp_path: Path) -> None:
    rest = MAX_MEMBER_BYTES - len('{"caption": "short", "rest": ""}')
    documents = [f'{{"caption": "short", "rest": "{"x" * (rest + more)}"}}' for more in (0, 1)]
    data = member("a.json", documents[0]) + member("b.json", documents[1]) + END
    scan = scan_bytes(tmp_path, data, ["json.caption"])
    assert captions(scan, "json.caption") == {"a": "short", "b": None}
    assert summary(scan)["faults"] == {"json.caption": [["caption-too-large", "b"]]}


def test_members_of_two_gigabytes_are_skipped_not_read(tmp_path: Path) -> None:
    size = 2 * 1024**3
    with open(tmp_path / "x.tar", "wb") as file:
        file.write(sample("a", "before") + header(b"b.jpg", size))
        file.seek(size, 1)
        file.write(header(b"b.txt", size))
        file.seek(size, 1)
        file.write(sample("c", "after") + END)
    tracemalloc.start()
    scan = scan_file(tmp_path / "x.tar")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert captions(scan) == {"a": "before", "b": None, "c": "after"}
    assert summary(scan)["faults"] == {"txt": [["caption-too-large", "b"]]}
    assert scan.damage == []
    assert peak < 4 * 2**20


def test_extended_header_of_any_size_is_not_read(tmp_path: Path) -> None:
    long = pax(path=b"named.txt", comment=b"x" * MAX_EXTENSION_BYTES) + member("a.txt", "name unknown")
    scan = scan_bytes(tmp_path, long + sample("b", "kept") + END)
    assert captions(scan) == {"b": "kept"}
    assert [reject.code for reject in scan.rejects_of("txt")] == ["tar-corrupt", "member-name-lost"]


def test_name_of_a_megabyte_is_refused(tmp_path: Path) -> None:
    long = member("././@LongLink", b"n" * 2**20, b"L") + member("a.txt", "name too long")
    scan = scan_bytes(tmp_path, long + sample("b", "kept") + END)
    (reject,) = scan.rejects_of("txt")
    assert reject.code == "key-unsafe"
    assert len(str(reject)) < 1000


def test_sample_of_many_fields_takes_no_more_than_its_fields(tmp_path: Path) -> None:
    data = b"".join(header(f"img.{number}.txt".encode(), 0) for number in range(5000))
    tracemalloc.start()
    scan = scan_bytes(tmp_path, data + data[:512] + END)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20
    assert (scan.keys, scan.num_duplicates) == (["img"], 1)
    assert len(scan.rejects_of("txt")[1].reason) < 1000


def test_damage_entries_are_bounded(tmp_path: Path) -> None:
    broken = corrupt(sample("x", "y")[:512]) + sample("x", "y")[512:1024]
    data = b"".join(broken + sample(f"{number}", "kept") for number in range(MAX_DAMAGE + 50)) + END
    scan = scan_bytes(tmp_path, data)
    assert scan.num_captions("txt") == MAX_DAMAGE + 50
    assert len(scan.damage) == MAX_DAMAGE
    assert scan.damage[-1].reason.startswith(f"damage {MAX_DAMAGE + 50} ")


def test_captions_beyond_the_budget_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {f"{number:03d}": f"caption {number} " * number for number in range(100)}
    data = b"".join(member(f"{key}.json", json.dumps({"caption": text})) for key, text in texts.items()) + END
    monkeypatch.setattr(samples, "CAPTION_BUDGET_BYTES", 5000)
    scan = scan_bytes(tmp_path, data, ["json.caption"])
    assert captions(scan, "json.caption") == texts
    assert scan.captions("json.caption", 90, 92) == [texts["090"], texts["091"]]
    assert scan.captions("json.caption", 99, 200) == [texts["099"]]


def test_tar_that_is_rewritten_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "CAPTION_BUDGET_BYTES", 0)
    path = tmp_path / "x.tar"
    path.write_bytes(sample("a", "one") + END)
    inputs = list_inputs(str(path))
    scan = scan_tar(inputs.store, inputs.tars[0], ["txt"])
    for data in (sample("a", "one") + sample("b", "two") + END, sample("a", "one")):
        path.write_bytes(data)
        with pytest.raises(DamagedDataError) as caught:
            scan_tar(inputs.store, inputs.tars[0], ["txt"])
        assert caught.value.code == "input-changed"
        with pytest.raises(DamagedDataError, match="input-changed"):
            scan.captions("txt", 0, 1)


def test_memory_grows_with_keys_not_with_captions_or_images(tmp_path: Path) -> None:
    peaks = []
    for num_samples in (100, 5000):
        with open(tmp_path / "x.tar", "wb") as file:
            for number in range(num_samples):
                file.write(member(f"{number:09d}.jpg", bytes(3000)) + member(f"{number:09d}.txt", "caption " * 20))
            file.write(END)
        tracemalloc.start()
        scan_file(tmp_path / "x.tar")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 4900 < 600


@pytest.mark.parametrize("columns", [[], ["TXT"], ["txt", "txt"], ["json."], ["a/b"], ["-x"], ["txt\n"]])
def test_column_that_cannot_be_is_refused(tmp_path: Path, columns: list[str]) -> None:
    with pytest.raises(ConfigError, match="column-invalid"):
        scan_bytes(tmp_path, END, columns)

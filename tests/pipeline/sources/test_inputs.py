"""Which tars an input stands for, and what their shards are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.sources import list_inputs
from pipeline.sources.patterns import expand_braces, match_segments
from schemas.errors import ConfigError


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * len(name))
    return folder


def shards(url: object) -> list[str]:
    return [tar.shard for tar in list_inputs(str(url)).tars]


def test_folder_is_searched_at_any_depth(tmp_path: Path) -> None:
    make(tmp_path, "b.tar", "a.tar", "sub/deep/c.tar", "a.txt", "a.tar.gz", "notes/readme")
    inputs = list_inputs(str(tmp_path))
    assert [(tar.shard, tar.path, tar.num_bytes) for tar in inputs.tars] == [
        ("a", "a.tar", 5),
        ("b", "b.tar", 5),
        ("sub/deep/c", "sub/deep/c.tar", 14),
    ]
    assert inputs.store.get("sub/deep/c.tar") == b"x" * 14
    assert shards(f"{tmp_path}/") == shards(f"file://{tmp_path}") == ["a", "b", "sub/deep/c"]


def test_shards_keep_their_names_when_inputs_are_added(tmp_path: Path) -> None:
    make(tmp_path, "5.tar", "x/7.tar")
    before = shards(tmp_path)
    make(tmp_path, "1.tar", "x/1.tar", "6.tar")
    assert set(before) < set(shards(tmp_path))
    assert shards(f"{tmp_path}/*.tar") == ["1", "5", "6"]


def test_hidden_and_unfinished_are_left_out_unless_spelled_out(tmp_path: Path) -> None:
    make(tmp_path, "a.tar", ".b.tar", "._a.tar", ".git/c.tar", "_tmp/d.tar", "x/_temporary/e.tar", "_kept/f.tar")
    assert shards(tmp_path) == shards(f"{tmp_path}/**/*.tar") == ["_kept/f", "a"]
    assert shards(f"{tmp_path}/*.tar") == ["a"]
    assert shards(f"{tmp_path}/*/*.tar") == ["_kept/f"]
    assert shards(f"{tmp_path}/.b.tar") == [".b"]
    assert shards(f"{tmp_path}/{{a,.b}}.tar") == [".b", "a"]
    assert shards(f"{tmp_path}/_tmp") == ["d"]


def test_one_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "x/a.tar", "x/b.tar")
    assert shards(tmp_path / "x/a.tar") == ["a"]
    monkeypatch.chdir(tmp_path / "x")
    assert shards("a.tar") == ["a"]
    assert shards("{a,b}.tar") == shards("?.tar") == shards(".") == ["a", "b"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{00..02}.tar", ["00", "01", "02"]),
        ("{a,b}/x.tar", ["a/x", "b/x"]),
        ("*/x.tar", ["a/x", "b/x"]),
        ("a/*.tar", ["x", "y"]),
        ("a/[!x].tar", ["y"]),
        ("**/y.tar", ["a/y", "b/deep/y"]),
        ("b/**/*.tar", ["deep/y", "x"]),
        ("**", ["00", "01", "02", "a/x", "a/y", "b/deep/y", "b/x"]),
        ("{a,b}/*.tar", ["a/x", "a/y", "b/x"]),
        ("{0[01],a/?}.tar", ["00", "01", "a/x", "a/y"]),
        ("*", ["00", "01", "02"]),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    make(tmp_path, "00.tar", "01.tar", "02.tar", "a/x.tar", "a/y.tar", "b/x.tar", "b/deep/y.tar", "b/x.txt")
    assert shards(f"{tmp_path}/{pattern}") == expected


def test_names_that_look_like_patterns(tmp_path: Path) -> None:
    make(tmp_path, "[x]{1}.tar", "we ird#%20/a?.tar", "größe.tar", "[f]/*.tar")
    assert shards(tmp_path / "[x]{1}.tar") == ["[x]{1}"]
    assert shards(tmp_path / "[f]") == ["*"]
    assert shards(tmp_path) == ["[f]/*", "[x]{1}", "größe", "we ird#%20/a?"]
    inputs = list_inputs(str(tmp_path))
    assert [len(inputs.store.get(tar.path)) for tar in inputs.tars] == [tar.num_bytes for tar in inputs.tars]


def test_tars_that_a_pattern_spells_out_must_exist(tmp_path: Path) -> None:
    make(tmp_path, "00.tar", "02.tar")
    with pytest.raises(ConfigError) as caught:
        list_inputs(f"{tmp_path}/{{00..03}}.tar")
    assert caught.value.code == "input-missing"
    assert caught.value.actual == f"2 missing below {tmp_path}: 01.tar, 03.tar"
    with pytest.raises(ConfigError, match=r"1 missing below .*: b/\*\.tar"):
        list_inputs(f"{make(tmp_path, 'a/x.tar')}/{{a,b}}/*.tar")
    with pytest.raises(ConfigError, match=r"991 missing .* and 981 more"):
        list_inputs(f"{make(tmp_path, '000.tar')}/{{000..991}}.tar")


@pytest.mark.parametrize("url", ["nowhere", "nowhere/x.tar", "", "*.tar", "*/x.tar", "a/**", "notes.txt", "a.tar.gz"])
def test_nothing_found(tmp_path: Path, url: str) -> None:
    make(tmp_path, "notes.txt", "a.tar.gz")
    with pytest.raises(ConfigError) as caught:
        list_inputs(f"{tmp_path}/{url}")
    assert caught.value.code == "input-not-found"


def test_folder_that_leads_back_to_itself_is_walked_once(tmp_path: Path) -> None:
    make(tmp_path, "x/a.tar")
    (tmp_path / "x/again").symlink_to(tmp_path)
    (tmp_path / "other").symlink_to(tmp_path / "x")
    (tmp_path / "dead.tar").symlink_to(tmp_path / "nowhere.tar")
    assert shards(tmp_path) == ["other/a", "x/a"]


@pytest.mark.parametrize(
    "name", [b"nl\n.tar", b"esc\x1b.tar", b"latin\xe9.tar", b"x" * 201 + b".tar", b"/".join([b"y" * 150] * 4) + b".tar"]
)
def test_name_that_cannot_be_a_shard_is_refused(tmp_path: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb"):
        pass
    with pytest.raises(ConfigError) as caught:
        list_inputs(str(tmp_path))
    assert caught.value.code == "input-name-unsafe"
    assert str(caught.value).isascii()


def test_odd_names_of_other_files_do_no_harm(tmp_path: Path) -> None:
    make(tmp_path, "a.tar", "nl\n.txt")
    with open(os.fsencode(tmp_path) + b"/latin\xe9.jpg", "wb"):
        pass
    assert shards(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["{a,b}/../x.tar", "{a,b}//x.tar", "{a,./b}.tar"])
def test_pattern_cannot_leave_the_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="input-name-unsafe"):
        list_inputs(f"{tmp_path}/{name}")


def test_bucket_cannot_be_a_pattern() -> None:
    with pytest.raises(ConfigError, match="input-pattern-invalid"):
        list_inputs("s3://bucket-{a,b}/x.tar")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("x", ["x"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{000..10..5}", ["000", "005", "010"]),
        ("{a,b}{1,2}", ["a1", "a2", "b1", "b2"]),
        ("{a,b{1..2}}.tar", ["a.tar", "b1.tar", "b2.tar"]),
        ("x{,y}", ["x", "xy"]),
    ],
)
def test_braces(pattern: str, names: list[str]) -> None:
    assert expand_braces(pattern) == names


@pytest.mark.parametrize(
    "pattern", ["{a,b", "a,b}", "{a}", "{}", "{1..}", "{0..9..0}", "{0..99999999}", "{1..2000}" * 2]
)
def test_braces_that_mean_nothing(pattern: str) -> None:
    with pytest.raises(ConfigError, match="input-pattern-invalid"):
        expand_braces(pattern)


def test_double_star_stands_for_any_number_of_folders() -> None:
    assert match_segments(["x.tar"], ["**", "*.tar"])
    assert match_segments(["a", "b", "x.tar"], ["**", "*.tar"])
    assert not match_segments(["a", "b", "x.tar"], ["*", "*.tar"])
    assert not match_segments([".a", "x.tar"], ["**", "*.tar"])
    assert match_segments([".a", "x.tar"], [".a", "*.tar"])

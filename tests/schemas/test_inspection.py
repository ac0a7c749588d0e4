"""What `inspect` shows: read as a person would, piped and in a narrow terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from schemas.errors import ConfigError, ContractError, DamagedDataError
from schemas.inspection import inspect_dataset
from schemas.inspection.text import bytes_text, histogram
from tests.datasets import (
    Sample,
    make_latent_manifest,
    make_manifest,
    pictures,
    samples,
    tensors,
    write_dataset,
)
from tests.golden.damage_dataset import Victim

ROWS = [Sample("a/é", "a [bold]cat[/bold] \x1b[31mred\nnext"), *samples(20, missing=[2]), Sample("z", "w" * 5000)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("inspect")
    shards = {"b/0001": ROWS, "empty": [], **{f"s{n:03d}": samples(1, prefix=f"{n}-") for n in range(20)}}
    write_dataset(str(folder), make_manifest(padding="none"), {"txt": shards, "json.x": {"b/0001": ROWS}})
    return str(folder)


def shown(url: str, *, width: int = 100, **what: object) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    inspect_dataset(url, console, **what)
    return console.file.getvalue()


def line(text: str, *beginnings: str) -> list[str]:
    """The words of the first line that begins so."""
    return next(row.split() for row in text.splitlines() if row.split()[: len(beginnings)] == list(beginnings))


def test_a_dataset(url: str) -> None:
    text = shown(url)
    assert "chunks of 4 rows" in text
    assert make_manifest(padding="none").identity_sha256 in text
    assert line(text, "source") == ["source", "test/clip_l", "test/clip_g", "test/t5"]
    assert line(text, "max", "tokens") == ["max", "tokens", "12", "12", "12"]
    assert line(text, "json.x")[:5] == ["json.x", "1", "22", "21", "1"]
    assert line(text, "txt")[:5] == ["txt", "22", "42", "41", "1"]
    assert line(text, "b/0001", "txt")[2:5] == ["22", "21", "1"]
    assert "... and 10 more shards" in text
    assert "Group txt" in text
    assert "t5:" in text
    assert "█" in text
    assert "Group json.x" not in shown(url, group="txt")


def test_captions_cannot_harm_a_terminal(url: str) -> None:
    text = shown(url, shard="b/0001")
    assert "\x1b" not in text
    assert r"a [bold]cat[/bold] \x1b[31mred\nnext" in text


def test_a_shard(url: str) -> None:
    text = shown(url, shard="b/0001", group="txt")
    assert "22 = 21 encoded + 1 rejects" in text
    assert line(text, "00002") == ["00002", "caption-missing", "no", "caption"]
    assert line(text, "5")[2:4] == ["20", "2"]
    assert "Shard b/0001, group json.x" in shown(url, shard="b/0001")
    assert "0: 0 encoded, 0 null" in shown(url, shard="empty")


def test_a_row(url: str) -> None:
    text = shown(url, shard="b/0001", group="txt", row=6)
    manifest = make_manifest(padding="none")
    num_tokens, made = tensors(manifest.captions.t5, ROWS[6])
    values = made["hidden"].astype(np.float64)
    assert line(text, "key") == ["key", "00005"]
    assert "a picture of 5 things" in text
    assert line(text, "t5")[1:3] == [str(num_tokens), "tokens" + ("," if num_tokens == 12 else "")]
    assert line(text, "t5.hidden")[1:5] == [str(num_tokens), "x", "64", "bfloat16"]
    statistics = [values.min(), values.max(), values.mean(), values.std()]
    assert line(text, "t5.hidden")[5:9] == [f"{value:.3g}" for value in statistics]
    assert f"{values[0, 0]:.3g}," in line(text, "t5.hidden")
    assert "t5.pooled" not in text
    assert "clip_l.eos" in text


def test_a_null_row_says_why(url: str) -> None:
    text = shown(url, shard="b/0001", group="txt", row=3)
    assert line(text, "null", "row") == ["null", "row", "caption-missing:", "no", "caption"]
    assert "hidden" not in text


@pytest.mark.parametrize(
    "what", [{}, {"shard": "b/0001"}, {"shard": "b/0001", "row": 0}, {"shard": "b/0001", "row": 3}]
)
def test_narrow_terminals(url: str, what: dict[str, object]) -> None:
    for width in (40, 60):
        rows = [row for row in shown(url, width=width, **what).splitlines() if "python -m" not in row]
        assert max(len(row.rstrip()) for row in rows) <= width


def test_what_is_not_there(url: str) -> None:
    for what, code in [
        ({"shard": "nope"}, "not-in-dataset"),
        ({"group": "nope"}, "not-in-dataset"),
        ({"row": 1}, "row-without-shard"),
        ({"shard": "b/0001", "row": 22}, "row-not-there"),
        ({"shard": "b/0001", "row": -1}, "row-not-there"),
        ({"shard": "empty", "row": 0}, "row-not-there"),
    ]:
        with pytest.raises((ConfigError, ContractError), match=code):
            shown(url, **what)


def test_damage_is_refused(tmp_path: Path) -> None:
    write_dataset(str(tmp_path), make_manifest(), {"txt": {"s": samples(3)}})
    victim = Victim(tmp_path, make_manifest())
    victim.flip(victim.part("txt", "s"), 5000)
    with pytest.raises(DamagedDataError, match="chunk-checksum"):
        shown(str(tmp_path), shard="s", row=0)


def test_an_empty_dataset(tmp_path: Path) -> None:
    write_dataset(str(tmp_path), make_manifest(), {})
    assert "Nothing is committed yet." in shown(str(tmp_path))


def test_the_command_is_plain_when_piped(url: str, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "schemas", "inspect", *arguments]
        environment = {**os.environ, "COLUMNS": "90"}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=600)

    result = run(url, "b/0001", "--row", "0")
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    assert "a/é" in result.stdout
    missing = run(str(tmp_path / "absent"))
    assert missing.returncode == 2
    assert "object-missing" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_histogram() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(histogram([1] * 30 + [25] * 15 + [77], 77, "title"))
    rows = [row.split() for row in console.file.getvalue().splitlines()]
    assert [row[:2] for row in rows if row and row[0][0].isdigit()] == [
        ["0-7", "30"],
        ["8-15", "0"],
        ["16-23", "0"],
        ["24-31", "15"],
        ["32-39", "0"],
        ["40-47", "0"],
        ["48-55", "0"],
        ["56-63", "0"],
        ["64-71", "0"],
        ["72-77", "1"],
    ]


def test_sizes() -> None:
    assert [bytes_text(n) for n in (0, 1023, 1024, 1536, 3 * 1024**3, 2048 * 1024**4)] == [
        "0 B",
        "1023 B",
        "1 KiB",
        "1.5 KiB",
        "3 GiB",
        "2.05e+03 TiB",
    ]


def test_image_latents_beside_captions(tmp_path: Path) -> None:
    manifest = make_latent_manifest()
    images = pictures(manifest, [row.key for row in samples(11)], missing=[5])
    write_dataset(str(tmp_path), make_manifest(), {"txt": {"s": samples(11)}}, manifest, {"s": images})
    text = shown(str(tmp_path))
    assert line(text, "kind") == ["kind", "autoencoder_kl"]
    assert line(text, "buckets") == ["buckets", "32x32,", "16x48,", "48x16"]
    assert line(text, "tensor") == ["tensor", "[16,", "height", "/", "8,", "width", "/", "8]"]
    assert manifest.identity_sha256 in text
    assert make_manifest().identity_sha256 in text
    assert line(text, "latents")[:5] == ["latents", "1", "11", "10", "1"]
    assert line(text, "32x32", "px") == ["32x32", "px", "5", "0.500"]
    assert "Group latents: 11 rows" in text
    assert "Group txt: 11 rows" in text
    alone = shown(str(tmp_path), group="txt")
    assert "32x32 px" not in alone
    assert "Group latents" not in alone


def test_a_shard_and_a_row_of_image_latents(tmp_path: Path) -> None:
    manifest = make_latent_manifest(kind="pixels")
    images = pictures(manifest, ["a\x1b[31m", "b", "c"], missing=[1], only=(16, 48))
    write_dataset(str(tmp_path), None, {}, manifest, {"s": images})
    assert line(shown(str(tmp_path)), "identity") == ["identity", manifest.identity_sha256]
    text = shown(str(tmp_path), shard="s")
    assert line(text, "latents") == ["latents", "2", "of", "16x48", "px;", "4.5", "KiB", "raw"]
    assert line(text, "b", "image-undecodable")
    assert "\x1b[31m" not in text
    row = shown(str(tmp_path), shard="s", row=2)
    assert line(row, "original")[1:] == ["16", "x", "96", "px", "(height", "x", "width)"]
    assert line(row, "crop")[1:] == [
        "16",
        "x",
        "48",
        "px",
        "at",
        "top",
        "0,",
        "left",
        "24",
        "of",
        "the",
        "resized",
        "image",
    ]
    assert line(row, "latents")[1:7] == ["3", "x", "16", "x", "48", "uint8"]
    assert "image-undecodable: no image" in shown(str(tmp_path), shard="s", row=1)

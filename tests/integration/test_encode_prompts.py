"""`python -m pipeline encode-prompts`: a text file becomes a dataset, once, and only as the training captions were."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

import schemas
from pipeline.encode_prompts import PROMPT_PRESETS, EncodePromptsConfig, run
from pipeline.encoders import EncoderConfig
from schemas.identity import ENCODER_NAMES
from schemas.validator import validate
from tests.datasets import make_manifest, samples, write_dataset
from tests.integration.commands import files
from tests.integration.commands import run as command
from tests.pipeline.encoding import shard_encoder, small_encoders, write_tar

PROMPTS = "\ufeffa red circle\r\n\n  two dogs \n   \n!\nein Bär, ein Käse"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_bytes(PROMPTS.encode())
    return path


def configured(prompts: Path, output: Path, **changes: object) -> EncodePromptsConfig:
    """float32, no padding, the encoders' own limits: as the shards of other tests are encoded."""
    demo = PROMPT_PRESETS["demo"][1]
    settings = {"padding": "none", "compute_dtype": "float32", "storage_dtype": "float32", **changes}
    settings |= dict.fromkeys(ENCODER_NAMES, EncoderConfig(source="random"))
    return dataclasses.replace(demo, prompts=prompts, output=str(output), **settings)


def test_prompts_are_encoded_as_captions_are(prompts: Path, tmp_path: Path) -> None:
    texts = ["a red circle", "two dogs", "!", "ein Bär, ein Käse", ""]
    tar = write_tar(tmp_path / "in" / "s.tar", [(f"{i}.txt", text.encode()) for i, text in enumerate(texts)])
    shard_encoder(tmp_path / "in", tmp_path / "captions", small_encoders("none")).encode(tar, ["txt"], 1)
    assert run(configured(prompts, tmp_path / "out", like=str(tmp_path / "captions"))) == 0
    found = list(schemas.open_dataset(str(tmp_path / "out")).rows("txt", "prompts"))
    assert [(row.key, row.caption) for row in found] == [
        ("000000", "a red circle"),
        ("000001", "two dogs"),
        ("000002", "!"),
        ("000003", "ein Bär, ein Käse"),
        ("empty", ""),
    ]
    for row, caption in zip(found, schemas.open_dataset(str(tmp_path / "captions")).rows("txt"), strict=True):
        for name in ENCODER_NAMES:
            np.testing.assert_array_equal(row[name].hidden, caption[name].hidden)


def test_the_command_makes_a_sound_dataset_once(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert "5 prompts" in command("encode-prompts", "demo", "--prompts", str(prompts), "--output", str(output))
    report = validate(str(output), level="values")
    assert (report.findings, report.totals.num_rows) == ((), 5)
    before = files(output)
    assert not [name for name in before if name.endswith(".alive")]
    # The same prompts in another file, and other prompts in the same file: only the former are there already.
    again = tmp_path / "again.txt"
    again.write_text("a red circle\ntwo dogs\n!\nein Bär, ein Käse\n")
    demo = PROMPT_PRESETS["demo"][1]
    run(dataclasses.replace(demo, prompts=again, output=str(output)))
    assert "Nothing to encode" in capsys.readouterr().out
    prompts.write_text("a red circle\nthree dogs\n!\nein Bär, ein Käse\n")
    with pytest.raises(schemas.ConfigError, match="prompts-differ") as caught:
        run(dataclasses.replace(demo, prompts=prompts, output=str(output)))
    assert caught.value.actual.endswith("first at number 1")
    assert {name for name, data in before.items() if files(output).get(name) != data} <= {"index.arrow"}


def test_other_options_than_the_captions_had_are_refused(prompts: Path, tmp_path: Path) -> None:
    run(configured(prompts, tmp_path / "like"))
    config = configured(prompts, tmp_path / "out", like=str(tmp_path / "like"), storage_dtype="bfloat16")
    with pytest.raises(schemas.IdentityMismatchError, match=r"t5\.storage_dtype: 'float32' -> 'bfloat16'"):
        run(config)
    assert not (tmp_path / "out").exists()


def test_prompts_are_not_written_among_training_captions(prompts: Path, tmp_path: Path) -> None:
    write_dataset(str(tmp_path / "data"), make_manifest(), {"txt": {"a": samples(3)}, "json.x": {"a": samples(3)}})
    with pytest.raises(schemas.ConfigError, match="output-not-prompts") as caught:
        run(configured(prompts, tmp_path / "data"))
    assert caught.value.actual == "a dataset with json.x/a and 1 more"


@pytest.mark.parametrize(
    ("content", "code", "where"),
    [
        (b"a cat\n\xff\xfe\n", "prompts-not-utf8", "line 2"),
        (b" \n\n", "prompts-empty", "prompts.txt"),
        (None, "prompts-unreadable", "prompts.txt"),
    ],
)
def test_a_file_that_holds_no_prompts_is_refused(tmp_path: Path, content: bytes | None, code: str, where: str) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(schemas.ConfigError, match=code) as caught:
        run(configured(path, tmp_path / "out"))
    assert where in caught.value.where
    assert not (tmp_path / "out").exists()


def test_no_ray_is_needed(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(configured(prompts, tmp_path / "out")) == 0

"""`verify` passes what is right, and calls what is wrong by its name."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from pipeline.__main__ import main
from pipeline.encoders import EncoderConfig, TextEncoder, load_encoder
from pipeline.encoders.demo_weights import demo_encoder_folder
from pipeline.verification import hypotheses, reference
from pipeline.verify import VerifyConfig, run
from schemas.identity import ENCODER_NAMES, ComputeDtype, EncoderName, Padding
from tests.pipeline import mistakes
from tests.pipeline import wrong_rows as wrong
from tests.pipeline.encoding import shard_encoder, write_tar
from tests.s3_server import s3_bucket, s3_server

CAPTIONS = [
    "a red cat",
    "",
    "a much longer caption about two dogs, a bird, the sea and the weather, in oil",
    "wow!",
    "x y",
]
ROUNDS = {"float32": 0.99999, "bfloat16": 0.9995, "float8": 0.98}


@pytest.fixture(autouse=True, scope="module")
def loaded_once() -> Iterator[None]:
    """The demo's encoders never change, and loading them is most of the time."""
    cached = functools.cache(load_encoder)

    def loads(name: EncoderName, config: EncoderConfig, **options: Any) -> TextEncoder:
        return (cached if config.source == "random" else load_encoder)(name, config, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "load_encoder", loads)
        yield


@functools.cache
def load(padding: Padding, compute_dtype: ComputeDtype, **sources: str) -> dict[str, TextEncoder]:
    return {
        name: load_encoder(
            name,
            EncoderConfig(sources.get(name, "random"), max_tokens=wrong.MAX_TOKENS[name]),
            padding=padding,
            compute_dtype="bfloat16" if compute_dtype == "float8" and name != "t5" else compute_dtype,
            storage_dtype="bfloat16",
            device="cpu",
        )
        for name in ENCODER_NAMES
    }


def encode(folder: Path, encoders: dict[str, TextEncoder], container: str = "arrow") -> str:
    """Two shards of two caption columns, some captions missing, by the real engine."""
    writer = None
    for shard in ("a", "b"):
        members = []
        for i, caption in enumerate(CAPTIONS):
            fields = {} if i == 3 else {"long": f"{caption} {shard}"}
            members += [(f"{i}.txt", caption.encode()), (f"{i}.json", json.dumps(fields).encode())]
        tar = write_tar(folder / "in" / f"{shard}.tar", members)
        writer = writer or shard_encoder(folder / "in", folder / "out", encoders, container=container, chunk_rows=2)
        assert len(writer.encode(tar, ["txt", "json.long"], 1).groups) == 2
    return str(folder / "out")


def verify(capsys: pytest.CaptureFixture[str], url: str, **options: Any) -> tuple[int, dict[str, Any]]:
    """Exit status and the JSON report."""
    capsys.readouterr()
    status = run(VerifyConfig(url, json=True, **options))
    return int(status), json.loads(capsys.readouterr().out)


def causes(report: dict[str, Any]) -> set[str]:
    rows = report["rows"]
    return {found["cause"] for row in rows for part in row["encoders"].values() for found in part["diagnoses"]}


@pytest.mark.processor
@pytest.mark.parametrize(
    ("padding", "container", "compute_dtype"),
    [("max_length", "arrow", "bfloat16"), ("none", "webdataset", "bfloat16"), ("none", "arrow", "float32")],
)
def test_what_the_engine_writes_is_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], padding: Padding, container: str, compute_dtype: ComputeDtype
) -> None:
    url = encode(tmp_path, load(padding, compute_dtype), container)
    status, report = verify(capsys, url, sample=100)
    assert (status, report["num_rows"], report["num_below"]) == (0, 18, 0)
    assert {(row["group"], row["shard"]) for row in report["rows"]} == {
        (group, shard) for group in ("txt", "json.long") for shard in ("a", "b")
    }
    cosines = [row["cosine"] for row in report["rows"]]
    assert cosines == sorted(cosines)
    assert ROUNDS[compute_dtype] <= cosines[0] == report["cosine"]
    if compute_dtype == "bfloat16":
        assert cosines[0] < ROUNDS["float32"]
    first = report["rows"][0]["encoders"]
    assert set(first["clip_g"]) > {"hidden", "pooled", "eos"}
    assert 0 < first["t5"]["hidden"]["relative_error"] < 0.03
    assert causes(report) == set()


@pytest.mark.parametrize("padding", ["max_length", "none"])
def test_float8_is_rounding_and_no_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], padding: Padding
) -> None:
    url = encode(tmp_path, load(padding, "float8"))
    status, report = verify(capsys, url, sample=4)
    assert status == 3
    assert ROUNDS["float8"] < report["cosine"] < ROUNDS["bfloat16"]
    for row in report["rows"]:
        assert row["encoders"]["clip_l"]["ok"]
        assert row["encoders"]["clip_g"]["ok"]
        assert [found["cause"] for found in row["encoders"]["t5"]["diagnoses"]] == ["rounding"]
    if padding == "none":
        assert verify(capsys, url, sample=1, min_cosine=ROUNDS["float8"])[0] == 0
        assert run(VerifyConfig(url, sample=2, diagnose=1)) == 3
        assert "Nothing but rounding of bfloat16, float8 was found; --min-cosine 0.99" in capsys.readouterr().out


@pytest.fixture(scope="module")
def wrong_reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The rows of a report on a dataset of mistakes, by padding and key."""
    found = {}
    for padding, table in (("max_length", mistakes.MAX_LENGTH), ("none", mistakes.NONE)):
        url = wrong.write(tmp_path_factory.mktemp("wrong") / padding, padding, table)
        out = io.StringIO()
        with contextlib.redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
            # T5's longest pads take the longest.
            patch.setattr(hypotheses, "_USUAL_LENGTHS", (77,))
            assert run(VerifyConfig(url, sample=100, diagnose=100, json=True)) == 3
        report = json.loads(out.getvalue())
        assert report["num_below"] == len(table) == report["num_rows"] - 1
        found[padding] = {row["key"]: row for row in report["rows"]}
    return found


@pytest.mark.parametrize(
    ("padding", "key"), [("max_length", key) for key in mistakes.MAX_LENGTH] + [("none", key) for key in mistakes.NONE]
)
def test_a_mistake_is_called_by_its_name(wrong_reports: dict[str, dict[str, Any]], padding: str, key: str) -> None:
    mistake = (mistakes.MAX_LENGTH if padding == "max_length" else mistakes.NONE)[key]
    row = wrong_reports[padding][key]
    for name, part in row["encoders"].items():
        assert part["ok"] == (name != mistake.encoder)
    (found,) = row["encoders"][mistake.encoder]["diagnoses"]
    assert found["cause"] == mistake.cause, found
    assert mistake.text in found["text"]
    assert set(found["fields"]) == set(mistake.fields)
    wrong_fields = {name for name in row["encoders"][mistake.encoder] if name in ("hidden", "pooled", "eos")}
    assert all(row["encoders"][mistake.encoder][name]["ok"] == (name not in mistake.fields) for name in wrong_fields)
    if found["cosine"] is not None:
        assert found["cosine"] > 0.9998


def test_a_right_row_among_them_is_right(wrong_reports: dict[str, dict[str, Any]]) -> None:
    for rows in wrong_reports.values():
        assert rows["right"]["ok"]
        assert list(rows)[-1] == "right"


def test_the_text_names_the_worst_row_and_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = {key: mistakes.MAX_LENGTH[key] for key in ("clip-last-layer", "t5-masked")}
    url = wrong.write(tmp_path / "ds", "max_length", two)
    assert main(["verify", url, "--sample", "9", "--shown", "2"]) == 3
    out = capsys.readouterr().out
    assert out.index("txt s row 1 (clip-last-layer)") < out.index("... and 1 more rows")
    assert "hidden: layer: hidden is the state after 4 of 4 layers, without the final norm" in out
    assert "2 of 3 rows are not within" in out
    assert "t5: padding in 1 rows" in out
    assert main(["verify", url, "--sample", "9", "--diagnose", "0"]) == 3
    out = capsys.readouterr().out
    assert "t5: not diagnosed in 1 rows" in out
    assert "masked out" not in out
    assert "rounding" not in out


def test_weights_that_are_not_the_manifests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "clip_l"
    shutil.copytree(demo_encoder_folder("clip_l"), folder)
    url = encode(tmp_path, load("none", "float32", clip_l=str(folder)))
    arguments = ["verify", url, "--sample", "1"]
    assert main(arguments) == 0

    weights = load_file(folder / "model.safetensors")
    weights["text_projection.weight"] *= -1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    capsys.readouterr()
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "[encoder-differs] clip_l" in error
    assert "weights_sha256" in error
    status, report = verify(capsys, url, sample=1, allow_differences=True)
    assert status == 3
    assert [line.split(":")[0] for line in report["differences"]] == ["clip_l.weights_sha256"]
    part = report["rows"][0]["encoders"]["clip_l"]
    assert [part[name]["ok"] for name in ("hidden", "pooled", "eos")] == [True, False, True]

    shutil.rmtree(folder)
    assert main(arguments) == 1
    assert str(folder) in capsys.readouterr().err
    # The same weights under another name are the manifest's.
    assert main([*arguments, "--clip-l.source", "random"]) == 0


def test_options_that_mean_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "none")]) == 1
    assert "object-missing" in capsys.readouterr().err
    for option in ("--sample", "--min-cosine"):
        assert main(["verify", str(tmp_path), option, "0"]) == 1
        assert f"[option-out-of-range] {option}" in capsys.readouterr().err


def test_from_a_bucket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    local = Path(encode(tmp_path, load("none", "bfloat16")))
    with s3_server() as endpoint, s3_bucket(endpoint, "bucket") as client:
        for path in local.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), "bucket", f"run/{path.relative_to(local)}")
        status, report = verify(capsys, "s3://bucket/run", sample=4)
    assert (status, report["num_rows"], report["url"]) == (0, 4, "s3://bucket/run")

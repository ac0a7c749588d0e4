"""The demo encoders are the same bits everywhere, safe to make at once, and worth encoding with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.encoders import EncoderConfig, demo_weights, describe_encoder
from schemas.identity import ENCODER_NAMES, EncoderName
from tests.checkpoints import AWKWARD_CAPTIONS
from tests.pipeline.encoders.encoding import encode, load

# Of float32 weights as written; a change here is a change of every demo dataset's identity, and needs a new _VERSION.
DIGESTS = {
    "clip_l": "df0efd1fdf94b7e4aa444955c956b059419bcf1bf44126e9c5e78ea663c00bb2",
    "clip_g": "e50bd7f6299be77c68f76ecfca36a6e00adf607baedac49b1c0bb33be53dfe5f",
    "t5": "c1bea9627ac92768793c7a87aea5ecbdc0fa0554c5cc0e36e9d7f8a9811d3708",
}
SIZES = {"clip_l": (96, 96), "clip_g": (160, 160), "t5": (512, None)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    # Two processes at once, all three encoders each: as the actors of a first demo run do.
    code = (
        "from pipeline.encoders.demo_weights import demo_encoder_folder as f; [f(n) for n in ('clip_l','clip_g','t5')]"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait(timeout=200) for process in running] == [0, 0]
    return folder


@pytest.fixture(autouse=True)
def _cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def test_many_processes_leave_one_folder_each(cache: Path) -> None:
    (version,) = (cache / "encode-once").iterdir()
    assert sorted(path.name for path in version.iterdir()) == sorted(ENCODER_NAMES)


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_weights_are_the_same_bits_everywhere(name: EncoderName) -> None:
    identity = describe_encoder(
        name, EncoderConfig("random"), padding="none", compute_dtype="bfloat16", storage_dtype="bfloat16"
    )
    assert identity.weights_sha256 == DIGESTS[name]
    assert (identity.source, identity.revision) == ("random", None)
    assert (identity.hidden_size, identity.pooled_size) == SIZES[name]
    assert identity.tokenizer == ("open_clip" if name == "clip_g" else "transformers")
    assert identity == load(name, "random", padding="none", compute_dtype="bfloat16").identity


def test_a_second_cache_holds_the_same_files(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ENCODER_NAMES:
        again = demo_weights.demo_encoder_folder(name)
        first = cache / again.relative_to(tmp_path)
        names = sorted(path.name for path in first.iterdir())
        assert names == sorted(path.name for path in again.iterdir())
        assert all((first / file).read_bytes() == (again / file).read_bytes() for file in names)


def test_the_first_to_publish_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def overtaken(draft: Path) -> None:
        (draft / "mine").touch()
        final = draft.parent / "t5"
        final.mkdir()
        (final / "theirs").touch()

    monkeypatch.setitem(demo_weights._WRITERS, "t5", overtaken)
    folder = demo_weights.demo_encoder_folder("t5")
    assert [path.name for path in folder.iterdir()] == ["theirs"]
    assert [path.name for path in folder.parent.iterdir()] == ["t5"]


def test_a_writer_that_dies_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def dying(draft: Path) -> None:
        assert not (draft.parent / "t5").exists()
        (draft / "half").touch()
        raise OSError("no space left")

    monkeypatch.setitem(demo_weights._WRITERS, "t5", dying)
    with pytest.raises(OSError, match="no space left"):
        demo_weights.demo_encoder_folder("t5")
    assert [
        path for path in tmp_path.rglob("*") if path.name != "encode-once" and "demo-encoders" not in path.name
    ] == []


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_outputs_vary_over_captions_and_positions(name: EncoderName) -> None:
    varied = "a photo of a small dog with red hat, sitting near the river under some old trees at night"
    output = encode(load(name, "random", compute_dtype="bfloat16"), [*AWKWARD_CAPTIONS, varied])
    hidden = output.hidden.float()
    assert hidden.isfinite().all()
    assert 0.3 < hidden.std() < 3
    assert hidden[:, 3].std(dim=0).mean() > 0.2
    assert hidden[-1, 1:20].std(dim=0).mean() > 0.3
    for part in (output.pooled, output.eos):
        assert (part is None) == (name == "t5")
        assert part is None or part.float().std(dim=0).mean() > 0.1


def test_t5_tokenizer_takes_any_script() -> None:
    tokenizer = load("t5", "random").tokenizer
    tokens = tokenizer([*AWKWARD_CAPTIONS, "a photo of a dog", "\u16a0\U0001f409"])
    assert tokens.ids[-2].tolist()[-1] == tokenizer.eos_id
    assert len(tokens.ids[-2]) == 6
    assert 2 in tokens.ids[-1]
    assert tokenizer.vocab_size < 2000

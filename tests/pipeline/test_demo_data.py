"""The demo's pictures show what their captions say, its prompts are new to it, and the same seed is the same bytes."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from pipeline.demo_data import COLORS, PLACES, PROMPTS, SHAPES, SIZES, DemoDataConfig, Scene, draw, run
from pipeline.encoders import load_encoder
from pipeline.presets import PRESETS
from schemas.errors import ConfigError
from schemas.identity import ENCODER_NAMES, EncoderName


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tars of 60 samples."""
    written = tmp_path_factory.mktemp("demo") / "tars"
    assert run(DemoDataConfig(written, num_shards=2, samples_per_shard=60)) == 0
    return written


def members(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as opened:
        return {info.name: opened.extractfile(info).read() for info in opened}  # type: ignore[union-attr]


def captions(folder: Path) -> list[tuple[str, str, Image.Image]]:
    """Both captions of every sample, and its picture."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        files = members(path)
        for name in files:
            if name.endswith(".txt"):
                picture = Image.open(io.BytesIO(files[name.replace(".txt", ".jpg")])).convert("RGB")
                facts = json.loads(files[name.replace(".txt", ".json")])
                assert facts["caption"] == files[name].decode()
                found.append((facts["caption"], facts["long_caption"], picture))
    return found


def shares(picture: Image.Image) -> dict[str, float]:
    """Of the pixels, by the colour they are nearest to."""
    pixels = np.asarray(picture, np.float32)[:, :, None]
    nearest = np.square(pixels - np.array(list(COLORS.values()), np.float32)).sum(axis=-1).argmin(axis=-1)
    return {name: float((nearest == index).mean()) for index, name in enumerate(COLORS)}


def test_pictures_show_what_both_captions_say(folder: Path) -> None:
    samples = captions(folder)
    assert len(samples) == 120
    assert len({caption for caption, _, _ in samples}) > 110
    for caption, long_caption, picture in samples:
        (color, ground) = sorted(shares(picture), key=shares(picture).__getitem__, reverse=True)[1::-1]
        for text in (caption, long_caption):
            words = text.replace(",", "").split()
            assert {word for word in words if word in COLORS} == {color, ground}
            assert words[words.index(color) + 1] in SHAPES
            assert any(place in text for place in PLACES)


@pytest.mark.parametrize("shape", SHAPES)
def test_words_decide_what_is_drawn(shape: str) -> None:
    middle = "in the middle"
    small, large = (np.asarray(draw(Scene(size, "red", shape, middle, "blue"), 32)) for size in ("small", "large"))
    red = [(image[:, :, 0] > 150).sum() for image in (small, large)]
    assert 8 < red[0] < red[1] / 2
    assert red[1] < 0.5 * 32 * 32
    pictures = [draw(Scene(size, "red", shape, place, "blue"), 32).tobytes() for size in SIZES for place in PLACES]
    pictures += [draw(Scene("", "red", other, middle, "blue"), 32).tobytes() for other in SHAPES if other != shape]
    assert len(set(pictures)) == len(SIZES) * len(PLACES) + len(SHAPES) - 1


def test_no_picture_has_what_a_prompt_asks_for(folder: Path) -> None:
    assert (folder / "prompts.txt").read_text().splitlines() == list(PROMPTS)

    def asked(text: str) -> tuple[str, ...]:
        return tuple(word for word in text.replace(",", "").split() if word in COLORS or word in SHAPES)

    # Both captions name the shape's colour, the shape and the ground in this order; one of the short ones does not.
    seen = {asked(long_caption) for _, long_caption, _ in captions(folder)}
    assert not seen & {asked(prompt) for prompt in PROMPTS}
    assert {asked(prompt)[1] for prompt in PROMPTS} == set(SHAPES)


def test_the_same_seed_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = DemoDataConfig(tmp_path, num_shards=2, samples_per_shard=60)
    run(again)
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written
    run(again)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written
    assert pyarrow.parquet.read_table(tmp_path / "00001.parquet").num_rows == 60


@pytest.mark.parametrize("name", ["00000.tar", "prompts.txt"])
def test_other_files_are_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ConfigError, match="demo-data-differs"):
        run(DemoDataConfig(tmp_path, num_shards=1, samples_per_shard=2))
    assert (tmp_path / name).read_bytes() == b"mine"


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_no_caption_is_cut_by_the_demo_preset(name: EncoderName, folder: Path) -> None:
    preset = PRESETS["demo"][1]
    tokenizer = load_encoder(
        name,
        getattr(preset, name),
        padding=preset.padding,
        compute_dtype="float32",
        storage_dtype=preset.storage_dtype,
        device="cpu",
    ).tokenizer
    texts = [text for sample in captions(folder) for text in sample[:2]]
    assert not any(tokenizer([*texts, *PROMPTS]).truncated)

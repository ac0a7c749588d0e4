"""`sample`: from a run's folder and a dataset of prompts to a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from schemas.errors import ConfigError, EncodeOnceError, StorageError
from tests.trainer.prompt_sets import write_prompts
from tests.trainer.runs import PIXELS, checkpointer, save_run, small_model, start
from trainer.sample import SampleConfig, picture_shape, run
from trainer.sampling import SamplingConfig

FAST = SamplingConfig(steps=2, guidance=2.0, seed=3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("run")
    save_run(folder, steps=3)
    return folder, write_prompts(folder / "prompts", ["one", "two words", "three words more"])


def sample(trained: tuple[Path, str], output: Path, **options: Any) -> np.ndarray[Any, Any]:
    config = SampleConfig(trained[0], trained[1], output, **{"sampling": FAST} | options)
    assert run(config) == 0
    return np.asarray(Image.open(output))


def test_a_grid_of_prompts_by_subsets(trained: tuple[Path, str], tmp_path: Path) -> None:
    one = sample(trained, tmp_path / "one.png")
    several = sample(trained, tmp_path / "new/folder/several.png", encoders=("all", "clip_l,clip_g", "none"))
    assert several.shape == (one.shape[0], one.shape[1] + 2 * (128 + 8), 3)
    again = sample(trained, tmp_path / "again.png")
    assert np.array_equal(one, again)
    other = sample(trained, tmp_path / "other.png", sampling=SamplingConfig(steps=2, guidance=2.0, seed=4))
    last = sample(trained, tmp_path / "last.png", weights="last")
    shifted = sample(trained, tmp_path / "shifted.png", shift=5.0)
    changed = {"seed": (one != other).mean(), "weights": (one != last).mean(), "shift": (one != shifted).mean()}
    assert min(changed.values()) > 0.1, changed
    fewer = sample(trained, tmp_path / "fewer.png", only=(2,), size=(16, 32))
    # Two rows less; pictures of 256 instead of 128 pixels, and with them the column of texts, instead of 160.
    assert fewer.shape[:2] == (one.shape[0] - 2 * (128 + 8), one.shape[1] + 128 + 96)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"size": (16, 18)}, "picture-size"),
        ({"size": (16, 64)}, "picture-size"),
        ({"size": (0, 16)}, "picture-size"),
        ({"encoders": ("clip",)}, "encoder-unknown"),
        ({"only": (3,)}, "prompt-number"),
        ({"checkpoint": Path("nowhere")}, "checkpoint-missing"),
    ],
)
def test_what_cannot_be_is_refused(
    trained: tuple[Path, str], tmp_path: Path, options: dict[str, Any], code: str
) -> None:
    arguments: dict[str, Any] = {"checkpoint": trained[0], "prompts": trained[1], "output": tmp_path / "x.png"}
    with pytest.raises(EncodeOnceError) as caught:
        run(SampleConfig(**arguments | {"sampling": FAST} | options))
    assert caught.value.code == code
    assert not (tmp_path / "x.png").exists()


def test_an_output_that_cannot_be_written_is_told(trained: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="picture-not-written"):
        run(SampleConfig(trained[0], trained[1], tmp_path / "grid.nonsense", sampling=FAST))


def test_a_model_trained_with_the_empty_prompt_needs_it(tmp_path: Path) -> None:
    state = start(small_model())
    saver = checkpointer(tmp_path, left_out="empty")
    saver.save(state, 0)
    saver.wait()
    without = write_prompts(tmp_path / "without", ["one"], empty=False)
    with pytest.raises(ConfigError, match="no empty one"):
        run(SampleConfig(tmp_path, without, tmp_path / "x.png", sampling=FAST))
    assert (
        run(SampleConfig(tmp_path, write_prompts(tmp_path / "with", ["one"]), tmp_path / "x.png", sampling=FAST)) == 0
    )


def test_the_squarest_bucket_is_the_default_size() -> None:
    buckets = PIXELS.model_copy(update={"crop": "buckets", "buckets": ((8, 32), (16, 20), (32, 8))})
    assert picture_shape(buckets, small_model().config) == (3, 16, 20)


def test_bfloat16_makes_almost_the_same_picture(trained: tuple[Path, str], tmp_path: Path) -> None:
    exact = sample(trained, tmp_path / "exact.png").astype(int)
    rough = sample(trained, tmp_path / "rough.png", dtype="bfloat16").astype(int)
    assert 0 < np.abs(exact - rough).mean() < 10
    assert torch.get_default_dtype() == torch.float32

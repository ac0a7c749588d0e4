"""`export`: what diffusers loads is what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline

from schemas.errors import ConfigError
from tests.trainer.runs import checkpointer, save_run, small_model, start
from tests.trainer.test_latent_decoder import autoencoder, identity
from trainer.checkpoint_folder import find_checkpoint
from trainer.checkpoint_weights import load_model
from trainer.export import ExportConfig, run


def load(folder: Path, *parts: str) -> StableDiffusion3Pipeline:
    """As a user does who has no text encoders; `parts` come from the folder."""
    names = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3", "vae")
    return StableDiffusion3Pipeline.from_pretrained(folder, **{name: None for name in names if name not in parts})


@pytest.mark.parametrize("weights", ["ema", "last"])
def test_the_pipeline_has_the_weights(tmp_path: Path, weights: Any) -> None:
    state = save_run(tmp_path / "run")
    assert run(ExportConfig(tmp_path / "run", tmp_path / "exported", weights=weights)) == 0
    pipeline = load(tmp_path / "exported")
    assert state.ema is not None
    expected = state.ema.tensors if weights == "ema" else dict(state.model.named_parameters())
    actual = dict(pipeline.transformer.named_parameters())
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert pipeline.transformer.config["num_layers"] == 2
    assert pipeline.text_encoder is None
    assert pipeline.vae is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported", "run"]


def test_half_precision_and_the_shift(tmp_path: Path) -> None:
    saver = checkpointer(tmp_path / "run", shift=2.5)
    saver.save(start(small_model()), 0)
    saver.wait()
    run(ExportConfig(tmp_path / "run", tmp_path / "exported", dtype="bfloat16"))
    pipeline = load(tmp_path / "exported")
    assert pipeline.scheduler.config["shift"] == 2.5
    assert pipeline.transformer.dtype == torch.float32, "from_pretrained's default"
    rounded = load_model(find_checkpoint(tmp_path / "run"), dtype=torch.bfloat16)
    assert torch.equal(pipeline.transformer.proj_out.weight.bfloat16(), rounded.proj_out.weight)
    config = json.loads((tmp_path / "exported/transformer/config.json").read_text())
    assert config["_class_name"] == "SD3Transformer2DModel"


def test_the_autoencoder_can_be_part_of_it(tmp_path: Path) -> None:
    autoencoder().save_pretrained(tmp_path / "source")
    saver = checkpointer(tmp_path / "run", latents=identity(str(tmp_path / "source")))
    saver.save(start(small_model()), 0)
    saver.wait()
    run(ExportConfig(tmp_path / "run", tmp_path / "exported", vae="dataset"))
    vae = load(tmp_path / "exported", "vae").vae
    assert isinstance(vae, AutoencoderKL)
    assert torch.equal(vae.decoder.conv_in.weight, autoencoder().decoder.conv_in.weight)
    assert vae.config["shift_factor"] == 0.06


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="trained on pixels"):
        run(ExportConfig(tmp_path / "run", tmp_path / "exported", vae="dataset"))
    assert not (tmp_path / "exported").exists()
    run(ExportConfig(tmp_path / "run", tmp_path / "exported"))
    with pytest.raises(ConfigError, match="output-exists"):
        run(ExportConfig(tmp_path / "run", tmp_path / "exported"))

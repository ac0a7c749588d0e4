"""Sampling equals diffusers' pipeline, and depends on nothing but model, prompt, encoders and seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from PIL import Image

from schemas.errors import ConfigError
from schemas.identity import ENCODER_NAMES
from tests.datasets import MAX_TOKENS, SIZES, make_identity
from tests.trainer.prompt_sets import write_prompts
from tests.trainer.runs import small_model
from trainer.conditioning import Conditioning
from trainer.latent_decoder import to_pictures
from trainer.prompts import PromptEncoding, Prompts, open_prompts
from trainer.sampling import (
    SamplingConfig,
    Subset,
    first_noise,
    parse_subset,
    sample_latents,
    sample_pictures,
    subset_label,
)

SHAPE = (3, 16, 8)


def conditioning(seed: int, rows: int) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    pooled = SIZES["clip_l"][0] + SIZES["clip_g"][0]
    return Conditioning(
        torch.randn(rows, 2 * MAX_TOKENS, SIZES["t5"][0], generator=generator),
        torch.randn(rows, pooled, generator=generator),
    )


@pytest.mark.parametrize(("guidance", "shift"), [(4.0, 3.0), (1.0, 1.0)])
def test_sampling_equals_the_pipeline_of_diffusers(guidance: float, shift: float) -> None:
    model, given, without = small_model().eval(), conditioning(1, 3), conditioning(2, 3)
    nothing: dict[str, Any] = dict.fromkeys(
        ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=model, scheduler=FlowMatchEulerDiscreteScheduler(shift=shift), **nothing
    )
    pipeline.set_progress_bar_config(disable=True)
    # Without an autoencoder the pipeline supposes one of factor 8.
    expected = pipeline(
        prompt_embeds=given.prompt_embeds,
        pooled_prompt_embeds=given.pooled_prompt_embeds,
        negative_prompt_embeds=without.prompt_embeds,
        negative_pooled_prompt_embeds=without.pooled_prompt_embeds,
        latents=first_noise([5, 6, 7], SHAPE),
        height=SHAPE[1] * 8,
        width=SHAPE[2] * 8,
        num_inference_steps=4,
        guidance_scale=guidance,
        output_type="latent",
    ).images
    actual = sample_latents(
        model, given, without, latent_shape=SHAPE, num_steps=4, guidance_scale=guidance, shift=shift, seeds=[5, 6, 7]
    )
    assert (actual - expected).abs().max() <= 1e-5
    assert (actual - first_noise([5, 6, 7], SHAPE)).abs().mean() > 0.1


def pictures_of(prompts: Prompts, subsets: Sequence[Subset], **options: Any) -> list[list[Image.Image]]:
    config = SamplingConfig(**{"steps": 2, "guidance": 3.0, "seed": 7} | options)
    return sample_pictures(
        small_model().eval(),
        prompts,
        subsets,
        encoding=PromptEncoding(MAX_TOKENS, use_empty=False),
        decode=lambda latents: to_pictures(latents / 3),
        latent_shape=SHAPE,
        shift=1.0,
        config=config,
    )


def nearly_same(left: Image.Image, right: Image.Image) -> bool:
    """But for rounding: another batch size adds up in another order."""
    return max(abs(a - b) for a, b in zip(left.tobytes(), right.tobytes(), strict=True)) <= 1


@pytest.fixture
def prompts(tmp_path: Path) -> Prompts:
    return open_prompts(write_prompts(tmp_path, ["one", "two", "three"]), make_identity())


def test_a_picture_does_not_depend_on_its_batch(prompts: Prompts) -> None:
    subsets: list[Subset] = [("clip_l",), ENCODER_NAMES]
    together, alone = pictures_of(prompts, subsets), pictures_of(prompts, subsets, batch_size=1)
    assert [len(row) for row in together] == [2, 2, 2]
    for left, right in zip(together, alone, strict=True):
        assert all(nearly_same(a, b) for a, b in zip(left, right, strict=True))


def test_each_prompt_each_subset_and_each_seed_makes_another_picture(prompts: Prompts) -> None:
    made = [p for row in pictures_of(prompts, [("clip_l",), ("t5",), ENCODER_NAMES]) for p in row]
    made += [p for row in pictures_of(prompts, [ENCODER_NAMES], seed=70) for p in row]
    assert not any(nearly_same(a, b) for i, a in enumerate(made) for b in made[:i])


def test_subsets_of_a_prompt_start_from_the_same_noise(prompts: Prompts) -> None:
    """Without a prompt the model sees only the noise: columns agree, rows do not."""
    rows = pictures_of(prompts, [(), ()])
    assert all(a.tobytes() == b.tobytes() for a, b in rows)
    assert len({a.tobytes() for a, _ in rows}) == 3


@pytest.mark.parametrize(
    ("text", "subset", "label"),
    [
        ("all", ENCODER_NAMES, "all encoders"),
        ("none", (), "no encoder"),
        ("clip_g,clip_l", ("clip_l", "clip_g"), "clip_l + clip_g"),
        ("t5", ("t5",), "t5"),
        ("t5, clip_g,clip_l", ENCODER_NAMES, "all encoders"),
    ],
)
def test_subsets_as_users_write_them(text: str, subset: Subset, label: str) -> None:
    assert parse_subset(text) == subset
    assert subset_label(subset) == label


@pytest.mark.parametrize("text", ["", "clip", "clip_l clip_g", "clip_l,"])
def test_an_unknown_encoder_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="encoder-unknown"):
        parse_subset(text)


@pytest.mark.parametrize("options", [{"steps": 0}, {"batch_size": 0}])
def test_settings_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        SamplingConfig(**options)

"""`max_length` equals diffusers' StableDiffusion3Pipeline.encode_prompt, which no one here wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from pipeline.encoders import EncoderConfig
from tests.checkpoints import AWKWARD_CAPTIONS, small_clip, small_t5, write_sd3
from tests.pipeline.encoders.encoding import encode, load

pytestmark = pytest.mark.processor

T5_WIDTH = 192


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd3")
    # Both kinds of configuration are about: EOS 2 in older files, 49407 in newer ones.
    clip_l = small_clip(1, width=64, eos_token_id=2)
    clip_g = small_clip(2, width=96, projection=80, layers=4, activation="gelu")
    write_sd3(folder, clip_l, clip_g, small_t5(3, width=T5_WIDTH))
    return folder


def reference(sd3: Path, *, max_tokens: int, with_t5: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """prompt_embeds [B, 77 + max_tokens, 192] and pooled_prompt_embeds [B, 144] by diffusers."""
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=T5_WIDTH, caption_projection_dim=16, pooled_projection_dim=144, out_channels=4,
    )  # fmt: skip
    parts: dict[str, Any] = {
        "text_encoder": CLIPTextModelWithProjection.from_pretrained(sd3 / "text_encoder"),
        "text_encoder_2": CLIPTextModelWithProjection.from_pretrained(sd3 / "text_encoder_2"),
        "text_encoder_3": T5EncoderModel.from_pretrained(sd3 / "text_encoder_3") if with_t5 else None,
        "tokenizer": CLIPTokenizer.from_pretrained(sd3 / "tokenizer"),
        "tokenizer_2": CLIPTokenizer.from_pretrained(sd3 / "tokenizer_2"),
        "tokenizer_3": T5TokenizerFast.from_pretrained(sd3 / "tokenizer_3") if with_t5 else None,
    }
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=None, **parts
    )
    with torch.inference_mode():
        embeds, _, pooled, _ = pipeline.encode_prompt(
            AWKWARD_CAPTIONS, None, None, do_classifier_free_guidance=False, max_sequence_length=max_tokens
        )
    return embeds, pooled


def assembled(sd3: Path, *, max_tokens: int, with_t5: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from this project's encoders."""
    clip_l = encode(load("clip_l", sd3), AWKWARD_CAPTIONS)
    clip_g = encode(load("clip_g", EncoderConfig(str(sd3), exclamation_as_pad=True)), AWKWARD_CAPTIONS)
    assert clip_l.pooled is not None
    assert clip_g.pooled is not None
    clip = torch.cat([clip_l.hidden, clip_g.hidden], dim=-1)
    clip = torch.nn.functional.pad(clip, (0, T5_WIDTH - clip.shape[-1]))
    if with_t5:
        t5 = encode(load("t5", EncoderConfig(str(sd3), max_tokens=max_tokens)), AWKWARD_CAPTIONS).hidden
    else:
        t5 = torch.zeros(len(clip), max_tokens, T5_WIDTH)
    return torch.cat([clip, t5], dim=1), torch.cat([clip_l.pooled, clip_g.pooled], dim=-1)


@pytest.mark.parametrize(("max_tokens", "with_t5"), [(77, True), (256, True), (256, False)])
def test_conditioning_equals_diffusers(sd3: Path, max_tokens: int, with_t5: bool) -> None:
    expected_embeds, expected_pooled = reference(sd3, max_tokens=max_tokens, with_t5=with_t5)
    embeds, pooled = assembled(sd3, max_tokens=max_tokens, with_t5=with_t5)
    assert embeds.shape == expected_embeds.shape == (len(AWKWARD_CAPTIONS), 77 + max_tokens, T5_WIDTH)
    assert (embeds - expected_embeds).abs().max() <= 1e-4
    assert (pooled - expected_pooled).abs().max() <= 1e-4
    # Equal because it is right, not because all of it is the same: captions differ by far more than the tolerance.
    assert expected_embeds.std(dim=0).mean() > 0.05


def test_exclamation_mark_is_text_unless_asked_otherwise(sd3: Path) -> None:
    default = load("clip_g", sd3).tokenizer
    compatible = load("clip_g", EncoderConfig(str(sd3), exclamation_as_pad=True)).tokenizer
    assert default(["!"]).ids[0].tolist() == [49406, 256, 49407]
    assert compatible(["!"]).ids[0].tolist() == [49406, 0, 49407]
    assert default(["hi!!! wow !"]).ids[0].tolist() == load("clip_l", sd3).tokenizer(["hi!!! wow !"]).ids[0].tolist()
    assert default.pad_id == compatible.pad_id == 0
    assert default.digest != compatible.digest

"""One step of an exported model in StableDiffusion3Pipeline, with its own text encoders, equals one of ours without.

Prompts go two ways: through diffusers' `encode_prompt`, and through `encode-prompts`, a stored dataset and
`trainer.conditioning`. No one here wrote the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from pipeline.encode_prompts import PROMPT_PRESETS
from pipeline.encode_prompts import run as encode_prompts
from pipeline.encoders import EncoderConfig
from schemas.dataset import open_dataset
from schemas.identity import ENCODER_NAMES
from tests.checkpoints import AWKWARD_CAPTIONS, small_clip, small_t5, write_sd3
from tests.trainer.runs import checkpointer, describe_run, small_model, start
from trainer.checkpoint_folder import find_checkpoint
from trainer.checkpoint_weights import load_model
from trainer.export import ExportConfig
from trainer.export import run as export
from trainer.prompts import PromptEncoding, open_prompts
from trainer.sampling import Subset, first_noise, sample_latents

T5_WIDTH, T5_TOKENS = 192, 96
SHAPE = (3, 16, 16)
# A prompts file has one a line, and no white space around it.
PROMPTS = sorted({caption.strip() for caption in AWKWARD_CAPTIONS if caption.isprintable() and caption.strip()})


@dataclasses.dataclass(frozen=True)
class Trained:
    """Text encoders of an SD3 repository, prompts encoded by them, and a run with its export."""

    sd3: Path
    prompts: str
    run: Path
    exported: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("parity")
    made = Trained(folder / "sd3", str(folder / "prompts"), folder / "run", folder / "exported")
    clip_l, clip_g = small_clip(1, width=64), small_clip(2, width=96, projection=80, layers=4, activation="gelu")
    write_sd3(made.sd3, clip_l, clip_g, small_t5(3, width=T5_WIDTH))
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    source = EncoderConfig(str(made.sd3))
    encode_prompts(
        dataclasses.replace(
            PROMPT_PRESETS["sd3"][1],
            prompts=folder / "prompts.txt",
            output=made.prompts,
            clip_l=source,
            clip_g=dataclasses.replace(source, exclamation_as_pad=True),
            t5=dataclasses.replace(source, max_tokens=T5_TOKENS),
            compute_dtype="float32",
            storage_dtype="float32",
            device="cpu",
        )
    )
    state = start(small_model(joint_attention_dim=T5_WIDTH, pooled_projection_dim=64 + 80))
    state.train()
    captions = open_dataset(made.prompts).manifest.captions
    config = dict(state.model.config)  # type: ignore[arg-type]
    description = describe_run().model_copy(update={"captions": captions, "t5_tokens": T5_TOKENS, "shift": 1.7})
    saver = checkpointer(made.run, model_config=config, **dict(description))
    saver.save(state, 1)
    saver.wait()
    export(ExportConfig(made.run, made.exported))
    return made


def pipeline_step(trained: Trained, *, with_t5: bool, guidance: float) -> torch.Tensor:
    """Latents after one step by diffusers, text encoders and all."""
    parts: dict[str, Any] = {
        "text_encoder": CLIPTextModelWithProjection.from_pretrained(trained.sd3 / "text_encoder"),
        "text_encoder_2": CLIPTextModelWithProjection.from_pretrained(trained.sd3 / "text_encoder_2"),
        "text_encoder_3": T5EncoderModel.from_pretrained(trained.sd3 / "text_encoder_3") if with_t5 else None,
        "tokenizer": CLIPTokenizer.from_pretrained(trained.sd3 / "tokenizer"),
        "tokenizer_2": CLIPTokenizer.from_pretrained(trained.sd3 / "tokenizer_2"),
        "tokenizer_3": T5TokenizerFast.from_pretrained(trained.sd3 / "tokenizer_3") if with_t5 else None,
    }
    pipeline = StableDiffusion3Pipeline.from_pretrained(trained.exported, vae=None, **parts)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        prompt=PROMPTS,
        max_sequence_length=T5_TOKENS,
        latents=first_noise(range(len(PROMPTS)), SHAPE),
        # Without an autoencoder the pipeline supposes one of factor 8.
        height=SHAPE[1] * 8,
        width=SHAPE[2] * 8,
        num_inference_steps=1,
        guidance_scale=guidance,
        output_type="latent",
    )
    return torch.as_tensor(made.images)


def our_step(trained: Trained, encoders: Subset, *, use_empty: bool = False, guidance: float = 1.0) -> torch.Tensor:
    """The same from the checkpoint and the stored prompts."""
    prompts = open_prompts(trained.prompts, open_dataset(trained.prompts).manifest.captions)
    assert prompts.texts == PROMPTS
    encoding = PromptEncoding(T5_TOKENS, use_empty)
    return sample_latents(
        load_model(find_checkpoint(trained.run)),
        encoding.encode(prompts, prompts.rows, encoders),
        encoding.encode(prompts, prompts.rows, ()),
        latent_shape=SHAPE,
        num_steps=1,
        guidance_scale=guidance,
        shift=1.7,
        seeds=range(len(PROMPTS)),
    )


def difference(left: torch.Tensor, right: torch.Tensor) -> float:
    assert left.shape == right.shape == (len(PROMPTS), *SHAPE)
    return float((left - right).abs().max())


@pytest.mark.parametrize("encoders", [ENCODER_NAMES, ("clip_l", "clip_g")])
def test_a_step_equals_the_pipeline_with_and_without_t5(trained: Trained, encoders: Subset) -> None:
    with_t5 = "t5" in encoders
    expected = pipeline_step(trained, with_t5=with_t5, guidance=1.0)
    assert difference(our_step(trained, encoders), expected) <= 1e-4
    # Equal because it is right: other encoders make other latents.
    others: Sequence[Subset] = [("clip_l", "clip_g") if with_t5 else ENCODER_NAMES, ("clip_l",), ()]
    assert all(difference(our_step(trained, other), expected) > 1e-2 for other in others)


def test_a_guided_step_from_the_stored_empty_prompt_equals_the_pipeline(trained: Trained) -> None:
    """The pipeline's negative prompt is the empty one, encoded; ours is the last row of the prompts."""
    expected = pipeline_step(trained, with_t5=True, guidance=4.0)
    assert difference(our_step(trained, ENCODER_NAMES, use_empty=True, guidance=4.0), expected) <= 1e-4
    assert difference(our_step(trained, ENCODER_NAMES, use_empty=False, guidance=4.0), expected) > 1e-2

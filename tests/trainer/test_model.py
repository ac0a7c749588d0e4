"""The transformer: dimensions of the dataset, adaLN-zero, nothing left untrained."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from schemas.errors import ConfigError
from tests.datasets import make_identity
from tests.latent_datasets import make_latent_manifest
from tests.trainer.memory_stream import MODEL, micro_batch, normals
from trainer.conditioning import context_layout
from trainer.flow import FlowConfig, draw, row_losses
from trainer.model import ModelConfig, build_model, transformer_config
from trainer.presets import PRESETS, presets_with


def _loss(model: torch.nn.Module) -> torch.Tensor:
    batch = micro_batch([0, 1, 2, 3])
    shape = batch.latents.shape[1:]
    drawn = draw(FlowConfig(), 1.0, seed=0, positions=batch.positions, shape=shape, device=torch.device("cpu"))
    return row_losses(model, batch, drawn).mean()


def test_untrained_model_predicts_exactly_zero() -> None:
    model = build_model(MODEL | {"dual_attention_layers": [0]}, seed=1)
    batch = micro_batch([0, 1])
    out = model(batch.latents, batch.prompt_embeds, batch.pooled_prompt_embeds, torch.tensor([20.0, 900.0])).sample
    assert out.shape == batch.latents.shape
    assert torch.equal(out, torch.zeros_like(out))


def test_untrained_blocks_are_the_identity() -> None:
    model = build_model(MODEL | {"dual_attention_layers": [0]}, seed=1)
    pictures, captions, modulation = normals(1, 2, 9, 16), normals(2, 2, 5, 16), normals(3, 2, 16)
    for block in model.transformer_blocks:
        out = block(hidden_states=pictures, encoder_hidden_states=captions, temb=modulation)
        assert torch.equal(out[1], pictures)
        assert out[0] is None or torch.equal(out[0], captions)
    last = model.transformer_blocks[-1].norm1_context
    assert torch.equal(last(captions, modulation), last.norm(captions))


def test_gradients_reach_every_parameter_once_the_gates_are_open() -> None:
    model = build_model(MODEL, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # The last layer opens in the first step, pictures' gates in the second, captions' in the third.
    for _ in range(5):
        optimizer.zero_grad()
        _loss(model).backward()
        optimizer.step()
    untouched = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    # The last block throws its context away, so what its context asks for matters to nobody.
    last = "transformer_blocks.1.attn"
    assert untouched == {f"{last}.add_q_proj.weight", f"{last}.add_q_proj.bias", f"{last}.norm_added_q.weight"}


def test_first_weights_are_those_of_the_seed() -> None:
    first, same, other = build_model(MODEL, seed=1), build_model(MODEL, seed=1), build_model(MODEL, seed=2)
    name = "transformer_blocks.0.attn.to_q.weight"
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))
    weight = first.get_parameter(name)
    assert weight.abs().max() <= (6 / sum(weight.shape)) ** 0.5
    assert 0.015 < first.get_parameter("time_text_embed.timestep_embedder.linear_1.weight").std() < 0.025
    assert all(p.dtype == torch.float32 for p in first.parameters())


def test_dataset_decides_channels_and_widths() -> None:
    identity, latents = make_identity(), make_latent_manifest().latents
    config = transformer_config(ModelConfig(depth=3, head_dim=8, patch_size=2), context_layout(identity), latents)
    assert (config["in_channels"], config["out_channels"]) == (16, 16)
    assert (config["joint_attention_dim"], config["pooled_projection_dim"]) == (64, 64)
    assert (config["num_layers"], config["num_attention_heads"], config["caption_projection_dim"]) == (3, 3, 24)
    # Pictures of up to 48 px, 8 px a latent value, 2 values a token.
    assert (config["sample_size"], config["pos_embed_max_size"]) == (4, 3)
    assert build_model(config, seed=0).config["qk_norm"] == "rms_norm"


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (ModelConfig(depth=2, patch_size=3), "patch-size"),
        (ModelConfig(depth=2, pos_embed_max_size=2), "picture-too-large"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(config: ModelConfig, code: str) -> None:
    with pytest.raises(ConfigError) as error:
        transformer_config(config, context_layout(make_identity()), make_latent_manifest().latents)
    assert error.value.code == code


@pytest.mark.parametrize("sizes", [{"depth": 0}, {"head_dim": 7, "depth": 3}, {"patch_size": 0}])
def test_impossible_sizes_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="model-size"):
        ModelConfig(**sizes)


def test_sd3_medium_is_that_of_diffusers() -> None:
    """The numbers of stabilityai/stable-diffusion-3-medium's transformer/config.json, with QK-norm."""
    identity, latents = make_identity(), make_latent_manifest().latents
    clip_l = identity.clip_l.model_copy(update={"hidden_size": 768, "pooled_size": 768})
    clip_g = identity.clip_g.model_copy(update={"hidden_size": 1280, "pooled_size": 1280})
    t5 = identity.t5.model_copy(update={"hidden_size": 4096})
    layout = context_layout(identity.model_copy(update={"clip_l": clip_l, "clip_g": clip_g, "t5": t5}))
    assert transformer_config(PRESETS["sd3-medium"][1].model, layout, latents) == {
        "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
        "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096,
        "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
        "dual_attention_layers": [], "qk_norm": "rms_norm",
    }  # fmt: skip


def test_depth_decides_width() -> None:
    model = presets_with("mmdit-d12")["mmdit-d12"][1].model
    assert (model.depth, model.heads, model.head_dim) == (12, 12, 64)
    assert dataclasses.replace(model, depth=5).heads == 5
    assert presets_with("demo") is PRESETS

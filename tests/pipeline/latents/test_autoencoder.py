"""Autoencoders in the layouts users have them: found, checked, and equal to diffusers' own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.modules.module import register_module_forward_pre_hook

from pipeline.latents import LatentOptions, describe_latents, load_latents
from pipeline.latents.options import ImageConfig, VaeConfig
from schemas.errors import ConfigError
from schemas.identity import LatentComputeDtype, LatentIdentity
from tests.pipeline.latents.autoencoders import normalized, save, small_autoencoder

FLOAT32: LatentComputeDtype = "float32"


def options(source: Path | str, images: ImageConfig | None = None, **vae: object) -> LatentOptions:
    return LatentOptions("autoencoder_kl", images or ImageConfig(resolution=16), VaeConfig(str(source), **vae))


@pytest.mark.parametrize("quant_conv", [False, True])
def test_values_are_diffusers_own(tmp_path: Path, quant_conv: bool) -> None:
    vae = small_autoencoder(use_quant_conv=quant_conv, shift_factor=None if quant_conv else 0.0609)
    identity, encoder = load_latents(options(save(vae, tmp_path)), FLOAT32, "cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 24), np.uint8)
    assert encoder is not None
    found = encoder.encode(torch.from_numpy(pixels))
    assert found.shape == (3, *identity.latent_shape(16, 24)) == (3, 4, 8, 12)
    torch.testing.assert_close(found, normalized(vae, torch.from_numpy(pixels)), atol=1e-5, rtol=0)
    assert identity == describe_latents(options(tmp_path), FLOAT32)
    assert (identity.shift_factor, identity.scaling_factor) == (0.0 if quant_conv else 0.0609, 1.5305)
    assert identity.architecture["block_out_channels"] == [8, 16]
    assert identity == LatentIdentity.model_validate_json(identity.model_dump_json()), "as it is read back"


def test_bfloat16_computes_in_bfloat16(tmp_path: Path) -> None:
    vae = small_autoencoder()
    _, encoder = load_latents(options(save(vae, tmp_path)), "bfloat16", "cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), np.uint8)
    assert encoder is not None
    found = encoder.encode(torch.from_numpy(pixels))
    expected = normalized(vae, torch.from_numpy(pixels))
    assert found.dtype == torch.float32
    assert not torch.allclose(found, expected, atol=1e-4)
    assert torch.linalg.vector_norm(found - expected) <= 0.02 * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_convolutions_read_channels_last_in_bfloat16(tmp_path: Path, compute_dtype: LatentComputeDtype) -> None:
    _, encoder = load_latents(options(save(small_autoencoder(), tmp_path)), compute_dtype, "cpu")
    assert encoder is not None
    seen = []

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, torch.nn.Conv2d):
            for tensor in (inputs[0], module.weight):
                assert tensor.dtype == getattr(torch, compute_dtype)
                seen.append(tensor.is_contiguous(memory_format=torch.channels_last))

    with register_module_forward_pre_hook(look):
        encoder.encode(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    assert len(seen) > 10
    assert all(seen) == (compute_dtype == "bfloat16")


def test_pixels_are_scaled_before_they_are_rounded(tmp_path: Path) -> None:
    """To bfloat16 once, so that levels stay apart as far as it can keep them."""
    _, encoder = load_latents(options(save(small_autoencoder(), tmp_path)), "bfloat16", "cpu")
    assert encoder is not None
    levels, seen = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16), []

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, torch.nn.Conv2d) and not seen:
            seen.append(inputs[0])

    with register_module_forward_pre_hook(look):
        encoder.encode(levels)
    assert torch.equal(seen[0], (levels.float() / 127.5 - 1).bfloat16())


def test_loading_changes_no_setting_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    load_latents(options(save(small_autoencoder(), tmp_path)), FLOAT32, "cpu")
    assert torch.backends.cudnn.allow_tf32


def test_the_digest_is_of_the_encoder_alone_and_of_no_layout(tmp_path: Path) -> None:
    vae = small_autoencoder()
    whole, at_root, binary, other = (tmp_path / name for name in ("whole", "root", "bin", "other"))
    save(vae, whole / "vae")
    save(vae, at_root)
    vae.save_pretrained(binary, safe_serialization=False)
    # A decoder trained further makes the same latents.
    changed = small_autoencoder()
    changed.decoder.conv_in.weight.data += 1
    save(changed, other)
    digests = {describe_latents(options(folder), FLOAT32).weights_sha256 for folder in (whole, at_root, binary, other)}
    assert len(digests) == 1
    changed.encoder.conv_in.weight.data[0, 0, 0, 0] += 1e-6
    assert describe_latents(options(save(changed, other)), FLOAT32).weights_sha256 not in digests


def test_old_names_of_the_attention_are_understood(tmp_path: Path) -> None:
    vae = small_autoencoder()
    save(vae, tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, tensor in load_file(path).items():
        for new_name, old_name in names.items():
            name = name.replace(f".{new_name}.", f".{old_name}.")
        old[name] = tensor
    assert any("query" in name for name in old)
    save_file(old, path)
    _, encoder = load_latents(options(tmp_path), FLOAT32, "cpu")
    pixels = np.zeros((1, 3, 16, 16), np.uint8)
    assert encoder is not None
    expected = normalized(vae, torch.from_numpy(pixels))
    torch.testing.assert_close(encoder.encode(torch.from_numpy(pixels)), expected, atol=1e-5, rtol=0)


def test_what_is_no_autoencoder_is_refused(tmp_path: Path) -> None:
    save(small_autoencoder(), tmp_path / "vae")
    config = tmp_path / "vae" / "config.json"
    good = json.loads(config.read_text())
    for changes, code in (
        ({"_class_name": "AutoencoderDC"}, "unexpected-architecture"),
        ({"latents_mean": [0.0] * 4}, "unexpected-architecture"),
        ({"in_channels": 4}, "unexpected-architecture"),
        ({"down_block_types": ["NoSuchBlock", "DownEncoderBlock2D"]}, "unexpected-architecture"),
        ({"block_out_channels": [8, 32]}, "weights-shape-mismatch"),
        ({"layers_per_block": 2}, "weights-tensors-missing"),
    ):
        config.write_text(json.dumps({**good, **changes}))
        with pytest.raises(ConfigError, match=code):
            describe_latents(options(tmp_path), FLOAT32)
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ConfigError, match="weights-not-found"):
        describe_latents(options(tmp_path), FLOAT32)
    with pytest.raises(ConfigError, match="source-not-found"):
        describe_latents(options(tmp_path / "nowhere"), FLOAT32)


@pytest.mark.parametrize(
    "images", [ImageConfig(resolution=0), ImageConfig(max_upscale=0.5), ImageConfig(max_aspect=0), ImageConfig(15)]
)
def test_numbers_without_meaning_are_refused(tmp_path: Path, images: ImageConfig) -> None:
    with pytest.raises(ConfigError, match=r"option-out-of-range|image-size-not-multiple"):
        describe_latents(options(save(small_autoencoder(), tmp_path), images), FLOAT32)


def test_pixels_need_no_autoencoder() -> None:
    identity, encoder = load_latents(LatentOptions("pixels", ImageConfig(64, "buckets", 16)), FLOAT32, "cpu")
    assert encoder is None
    assert (identity.kind, identity.storage_dtype, identity.latent_shape(48, 80)) == ("pixels", "uint8", (3, 48, 80))
    assert (48, 80) in identity.buckets

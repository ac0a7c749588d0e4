"""prepare-weights writes encoders that load to the same values, without ever overwriting anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from pipeline.encoders import EncoderConfig
from pipeline.prepare_weights import PrepareWeightsConfig, WeightsDtype, run
from schemas.errors import ConfigError
from schemas.identity import ENCODER_NAMES, ComputeDtype
from tests.checkpoints import (
    small_clip,
    small_t5,
    write_clip_model,
    write_clip_tokenizer,
    write_open_clip,
    write_t5_tokenizer,
    write_t5_with_decoder,
)
from tests.pipeline.encoders.encoding import encode, load

CAPTIONS = ["a photo of a dog", "", "hi!!! wow !", "word " * 100]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sources")
    write_clip_model(folder / "clip_l", small_clip(1, width=64, projection=48))
    write_clip_tokenizer(folder / "clip_l")
    write_open_clip(
        folder / "clip_g", small_clip(2, activation="gelu"), name="open_clip_pytorch_model.bin", prefix="text."
    )
    write_t5_with_decoder(folder / "t5", small_t5(3))
    write_t5_tokenizer(folder / "t5")
    return folder


def configured(sources: Path, output: Path, dtype: WeightsDtype, shard_bytes: int = 2_000_000) -> PrepareWeightsConfig:
    encoders = {name: EncoderConfig(str(sources / name)) for name in ENCODER_NAMES}
    return PrepareWeightsConfig(str(output), **encoders, dtype=dtype, shard_bytes=shard_bytes)


@pytest.mark.parametrize(("dtype", "compute"), [("bfloat16", "bfloat16"), ("keep", "float32")])
def test_prepared_encoders_give_the_same_values(
    dtype: WeightsDtype, compute: ComputeDtype, sources: Path, tmp_path: Path
) -> None:
    prepared = run(configured(sources, tmp_path / "out", dtype))
    assert [encoder.name for encoder in prepared] == list(ENCODER_NAMES)
    for encoder in prepared:
        before = load(encoder.name, sources / encoder.name, compute_dtype=compute)
        # The folder itself, and the folder of all three, are both sources.
        for source in (encoder.folder, str(tmp_path / "out")):
            after = load(encoder.name, source, compute_dtype=compute)
            assert after.identity.weights_sha256 == encoder.weights_sha256
            assert (encoder.weights_sha256 == before.identity.weights_sha256) == (dtype == "keep")
            unchanged = ("tokenizer_sha256", "architecture", "pad_token_id", "hidden_size", "pooled_size")
            assert all(getattr(after.identity, part) == getattr(before.identity, part) for part in unchanged)
            left, right = encode(before, CAPTIONS), encode(after, CAPTIONS)
            assert torch.equal(left.hidden, right.hidden)
            assert left.pooled is right.pooled is None or torch.equal(left.pooled, right.pooled)


def test_output_is_sharded_and_holds_the_text_tower_only(sources: Path, tmp_path: Path) -> None:
    prepared = {encoder.name: encoder for encoder in run(configured(sources, tmp_path, "bfloat16"))}
    for name in ENCODER_NAMES:
        files = sorted((tmp_path / name).glob("*.safetensors"))
        assert len(files) > 1 or name == "t5"
        tensors = {key: tensor for file in files for key, tensor in load_file(file).items()}
        assert sum(tensor.nbytes for tensor in tensors.values()) == prepared[name].weights_bytes
        assert all(tensor.dtype == torch.bfloat16 for tensor in tensors.values())
        assert not any(key.startswith(("visual", "vision", "decoder", "lm_head", "logit")) for key in tensors)
        assert sum(path.stat().st_size for path in files) < 1.1 * prepared[name].weights_bytes
    assert not [path for path in tmp_path.iterdir() if path.name not in ENCODER_NAMES]
    assert json.loads((tmp_path / "t5" / "source.json").read_text())["source"] == str(sources / "t5")


def test_transformers_reads_the_output(sources: Path, tmp_path: Path) -> None:
    run(configured(sources, tmp_path, "keep"))
    token_ids = torch.tensor([[49406, 320, 49407]])
    expected = load("clip_l", sources / "clip_l", padding="none").encode(token_ids, torch.tensor([3]))
    model = CLIPTextModelWithProjection.from_pretrained(tmp_path / "clip_l").eval()
    with torch.inference_mode():
        assert (model(token_ids).text_embeds - expected.pooled).abs().max() < 1e-5
    assert T5EncoderModel.from_pretrained(tmp_path / "t5").dtype == torch.float32


def test_nothing_is_overwritten(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "clip_g").mkdir()
    with pytest.raises(ConfigError) as caught:
        run(configured(sources, tmp_path, "bfloat16"))
    assert caught.value.code == "output-exists"
    assert [path.name for path in tmp_path.iterdir()] == ["clip_g"]


def test_a_source_that_fails_leaves_no_half_written_folder(sources: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    write_clip_model(broken, small_clip(1, width=64, projection=48))
    config = configured(sources, tmp_path / "out", "bfloat16")
    config = PrepareWeightsConfig(str(tmp_path / "out"), EncoderConfig(str(broken)), config.clip_g, config.t5)
    with pytest.raises(ConfigError) as caught:
        run(config)
    assert caught.value.code == "tokenizer-not-found"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_tokenizer_other_than_the_usual_is_kept(sources: Path, tmp_path: Path) -> None:
    config = configured(sources, tmp_path, "bfloat16")
    clip_g = EncoderConfig(str(sources / "clip_g"), tokenizer=str(sources / "clip_l"))
    prepared = run(PrepareWeightsConfig(str(tmp_path / "out"), config.clip_l, clip_g, config.t5))[1]
    folder = str(tmp_path / "out" / "clip_g")
    assert prepared.options == ("--clip-g.source", folder, "--clip-g.tokenizer", folder)
    again = load("clip_g", EncoderConfig(folder, tokenizer=folder)).identity
    assert again.tokenizer_sha256 == load("clip_g", clip_g).identity.tokenizer_sha256
    assert again.tokenizer == "transformers"

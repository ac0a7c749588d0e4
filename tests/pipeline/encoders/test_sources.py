"""Sources that cannot be used say why and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from pipeline.encoders import EncoderConfig, describe_encoder, load_encoder
from schemas.errors import ConfigError
from schemas.identity import EncoderName
from tests.checkpoints import (
    open_clip_config,
    small_clip,
    small_t5,
    to_shards,
    write_clip_tokenizer,
    write_open_clip,
    write_t5_tokenizer,
)
from tests.pipeline.encoders.encoding import load

CLIP = small_clip(1, width=64, activation="gelu")
T5 = small_t5(3)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("good")
    CLIP.save_pretrained(folder / "clip")
    write_clip_tokenizer(folder / "clip")
    write_open_clip(folder / "open_clip", CLIP)
    T5.save_pretrained(folder / "t5")
    write_t5_tokenizer(folder / "t5")
    return folder


@pytest.fixture
def broken(good: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(good, tmp_path / "broken"))


def failure(name: EncoderName, config: EncoderConfig | Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(name, config)
    assert all((caught.value.where, caught.value.expected, caught.value.actual, caught.value.remedy))
    config = config if isinstance(config, EncoderConfig) else EncoderConfig(str(config))
    with pytest.raises(ConfigError) as described:
        describe_encoder(name, config, padding="none", compute_dtype="float32", storage_dtype="float32")
    assert str(described.value) == str(caught.value)
    return caught.value


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_tensors(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(file)
    change(state)
    save_file(state, file)


@pytest.mark.parametrize("source", ["/nowhere/at/all", "./nowhere", "a/b/c", ""])
def test_no_such_source(source: str) -> None:
    assert failure("clip_l", EncoderConfig(source)).code == "source-not-found"


def test_unreachable_repository() -> None:
    assert failure("clip_l", EncoderConfig("no-such-owner/no-such-name")).code == "source-unavailable"


def test_nothing_usable_in_the_folder(good: Path, tmp_path: Path) -> None:
    error = failure("clip_g", tmp_path)
    assert error.code == "weights-not-found"
    assert "open_clip_model.safetensors" in error.expected
    assert failure("t5", EncoderConfig(str(good), subfolder="nowhere")).code == "weights-not-found"
    assert "--t5.subfolder" in failure("t5", good / "open_clip").remedy


def test_revision_of_a_folder(good: Path) -> None:
    assert failure("t5", EncoderConfig(str(good / "t5"), revision="main")).code == "revision-without-repository"
    assert failure("t5", EncoderConfig("random", revision="main")).code == "revision-without-repository"


def test_missing_tensor(broken: Path) -> None:
    gone = "encoder.block.1.layer.0.SelfAttention.k.weight"
    edit_tensors(broken / "t5" / "model.safetensors", lambda state: state.pop(gone))
    error = failure("t5", broken / "t5")
    assert error.code == "weights-tensors-missing"
    assert gone.removeprefix("encoder.") in error.actual


@pytest.mark.parametrize(
    ("name", "folder", "file", "change"),
    [
        ("clip_l", "clip", "config.json", {"hidden_size": 80, "num_attention_heads": 5}),
        ("t5", "t5", "config.json", {"d_ff": 128}),
        ("t5", "t5", "config.json", {"vocab_size": 1000}),
    ],
)
def test_wrong_shape(name: EncoderName, folder: str, file: str, change: dict[str, object], broken: Path) -> None:
    edit_json(broken / folder / file, **change)
    error = failure(name, broken / folder)
    assert error.code == "weights-shape-mismatch"
    assert "not (" in error.actual


def test_clip_without_projection(broken: Path) -> None:
    shutil.rmtree(broken / "clip")
    CLIPTextModel(CLIP.config).save_pretrained(broken / "clip")
    write_clip_tokenizer(broken / "clip")
    error = failure("clip_l", broken / "clip")
    assert error.code == "clip-without-projection"
    assert "CLIPTextModel" in error.actual


def test_another_architecture(broken: Path) -> None:
    assert failure("t5", broken / "clip").code == "unexpected-architecture"
    assert failure("clip_l", broken / "t5").code == "unexpected-architecture"
    CLIPVisionModel(CLIPVisionConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=1)).save_pretrained(
        broken / "vision"
    )
    assert failure("clip_l", broken / "vision").code == "unexpected-architecture"
    edit_json(broken / "t5" / "config.json", model_type="umt5")
    assert failure("t5", broken / "t5").code == "unexpected-architecture"


@pytest.mark.parametrize(
    "text_cfg", [{"pool_type": "last"}, {"hf_model_name": "roberta-base"}, {"embed_cls": True}, {"qk_norm": True}]
)
def test_open_clip_that_is_no_clip(text_cfg: dict[str, object], broken: Path) -> None:
    (broken / "open_clip" / "open_clip_config.json").write_text(json.dumps(open_clip_config(CLIP, **text_cfg)))
    assert failure("clip_g", broken / "open_clip").code == "unexpected-architecture"


def test_bare_open_clip_file_of_unknown_architecture(broken: Path) -> None:
    narrow = small_clip(4, width=48)
    write_open_clip(broken / "narrow", narrow)
    (broken / "narrow" / "open_clip_config.json").unlink()
    file = broken / "narrow" / "open_clip_model.safetensors"
    assert failure("clip_g", file).code == "architecture-unknown"
    assert failure("clip_g", broken / "narrow").code == "architecture-unknown"
    named = EncoderConfig(str(file), open_clip_model="ViT-bigG-14")
    assert failure("clip_g", named).code == "weights-tensors-missing"
    unknown = EncoderConfig(str(file), open_clip_model="ViT-huge-99")
    assert failure("clip_g", unknown).code == "open-clip-model-unknown"


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", b"\x00" * 64])
def test_damaged_weights(content: bytes, broken: Path) -> None:
    (broken / "clip" / "model.safetensors").write_bytes(content)
    assert failure("clip_l", broken / "clip").code == "weights-unreadable"


def test_truncated_weights(broken: Path) -> None:
    file = broken / "t5" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert failure("t5", broken / "t5").code == "weights-unreadable"


class Evil:
    """Runs code when it is unpickled as code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


def test_a_pickle_never_runs_code(broken: Path) -> None:
    marker = broken / "ran"
    (broken / "clip" / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1), "evil": Evil(marker)}, broken / "clip" / "pytorch_model.bin")
    assert failure("clip_l", broken / "clip").code == "weights-unreadable"
    assert not marker.exists()
    torch.load(broken / "clip" / "pytorch_model.bin", weights_only=False)
    assert marker.exists()  # the file would have


def test_quantized_weights(broken: Path) -> None:
    name = "encoder.block.0.layer.0.SelfAttention.k.weight"
    edit_tensors(broken / "t5" / "model.safetensors", lambda state: state.update({name: state[name].to(torch.int8)}))
    assert failure("t5", broken / "t5").code == "weights-dtype-unsupported"


def test_missing_shard(broken: Path) -> None:
    to_shards(broken / "t5")
    (broken / "t5" / "model-00002-of-00003.safetensors").unlink()
    error = failure("t5", broken / "t5")
    assert error.code == "weights-shard-missing"
    assert "model-00002-of-00003" in error.actual
    edit_json(broken / "t5" / "model.safetensors.index.json", weight_map={"shared.weight": "../x.safetensors"})
    assert failure("t5", broken / "t5").code == "weights-index-invalid"
    (broken / "t5" / "model.safetensors.index.json").write_text("[]")
    assert failure("t5", broken / "t5").code == "config-unreadable"


def test_tokenizer_missing_or_foreign(broken: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (broken / "clip" / file).unlink()
    assert failure("clip_l", broken / "clip").code == "tokenizer-not-found"
    elsewhere = EncoderConfig(str(broken / "clip"), tokenizer="/nowhere")
    assert failure("clip_l", elsewhere).code == "source-not-found"
    foreign = EncoderConfig(str(broken / "clip"), tokenizer=str(broken / "t5"))
    assert failure("clip_l", foreign).code == "tokenizer-unreadable"


def test_tokenizer_that_does_not_fit(broken: Path) -> None:
    write_clip_tokenizer(broken / "clip")
    edit_json(broken / "clip" / "config.json", eos_token_id=7)
    assert failure("clip_l", broken / "clip").code == "tokenizer-does-not-fit"
    shutil.rmtree(broken / "t5")
    small = small_t5(3)
    small.resize_token_embeddings(500)
    small.save_pretrained(broken / "t5")
    write_t5_tokenizer(broken / "t5")
    assert failure("t5", broken / "t5").code == "tokenizer-does-not-fit"


@pytest.mark.parametrize(
    ("name", "folder", "options"),
    [
        ("t5", "t5", {"exclamation_as_pad": True}),
        ("t5", "t5", {"tokenizer": "open_clip"}),
        ("clip_g", "open_clip", {"exclamation_as_pad": True}),
    ],
)
def test_tokenizer_option_without_a_meaning(
    name: EncoderName, folder: str, options: dict[str, object], good: Path
) -> None:
    config = EncoderConfig(str(good / folder), **options)
    assert failure(name, config).code == "tokenizer-option-invalid"


@pytest.mark.parametrize(
    ("name", "folder", "limit"), [("clip_l", "clip", 78), ("clip_g", "open_clip", 256), ("t5", "t5", 1)]
)
def test_token_limit_out_of_range(name: EncoderName, folder: str, limit: int, good: Path) -> None:
    error = failure(name, EncoderConfig(str(good / folder), max_tokens=limit))
    assert error.code == "max-tokens-out-of-range"
    assert error.where == f"--{name.replace('_', '-')}.max-tokens"


@pytest.mark.parametrize(
    ("field", "value"), [("compute_dtype", "float16"), ("storage_dtype", "int8"), ("padding", "longest")]
)
def test_choice_out_of_range(field: str, value: str, good: Path) -> None:
    choices = {"padding": "none", "compute_dtype": "float32", "storage_dtype": "float16", field: value}
    with pytest.raises(ConfigError) as caught:
        load_encoder("t5", EncoderConfig(str(good / "t5")), device="cpu", **choices)
    assert caught.value.code == "option-out-of-range"


def test_single_huggingface_file_needs_its_config(good: Path, tmp_path: Path) -> None:
    assert (
        load("t5", good / "t5" / "model.safetensors").identity.weights_sha256
        == load("t5", good / "t5").identity.weights_sha256
    )
    file = shutil.copy(good / "clip" / "model.safetensors", tmp_path)
    assert failure("clip_l", EncoderConfig(str(file))).code == "encoder-config-missing"

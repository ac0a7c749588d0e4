"""Every layout users have their weights in loads, and the same tensors give the same outputs and the same digest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.encoders import EncoderConfig, EncoderOutput, TextEncoder, describe_encoder
from schemas.identity import EncoderName
from tests.checkpoints import (
    AWKWARD_CAPTIONS,
    small_clip,
    small_t5,
    to_bin,
    to_shards,
    write_clip_model,
    write_clip_tokenizer,
    write_open_clip,
    write_sd3,
    write_slow_clip_tokenizer,
    write_spiece_model,
    write_t5_tokenizer,
    write_t5_with_decoder,
)
from tests.pipeline.encoders.encoding import encode, load

CLIP_L = small_clip(1, width=64, projection=48)
CLIP_G = small_clip(2, width=64, projection=80, layers=4, activation="gelu")
T5 = small_t5(3)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def same(left: EncoderOutput, right: EncoderOutput, tolerance: float = 0.0) -> bool:
    pairs = [(left.hidden, right.hidden), (left.pooled, right.pooled), (left.eos, right.eos)]
    return all(
        (a is None) == (b is None) and (a is None or b is None or bool((a - b).abs().max() <= tolerance))
        for a, b in pairs
    )


def described(encoder: TextEncoder, config: EncoderConfig) -> bool:
    """Whether the identity found without loading is the loaded encoder's."""
    identity = describe_encoder(
        encoder.name, config, padding="max_length", compute_dtype="float32", storage_dtype="bfloat16"
    )
    return identity == encoder.identity


@pytest.fixture(scope="module")
def clip_reference(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    folder = tmp_path_factory.mktemp("clip")
    CLIP_L.save_pretrained(folder)
    write_clip_tokenizer(folder)
    return load("clip_l", folder)


def clip_text(folder: Path) -> None:
    CLIP_L.save_pretrained(folder)


def clip_whole(folder: Path) -> None:
    write_clip_model(folder, CLIP_L)


def clip_bin(folder: Path) -> None:
    write_clip_model(folder, CLIP_L)
    to_bin(folder)


def clip_shards(folder: Path) -> None:
    write_clip_model(folder, CLIP_L)
    to_shards(folder)


def clip_shards_without_index(folder: Path) -> None:
    write_clip_model(folder, CLIP_L)
    to_shards(folder, index=False)


def clip_bin_shards(folder: Path) -> None:
    write_clip_model(folder, CLIP_L)
    to_shards(folder, suffix=".bin")


def clip_old_buffers(folder: Path) -> None:
    """Files from before transformers 4.31 hold position_ids, a buffer."""
    CLIP_L.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, folder / "model.safetensors")


def clip_old_config(folder: Path) -> None:
    """The configuration of openai/clip-vit-large-patch14 holds its parts twice, and settings of generation."""
    write_clip_model(folder, CLIP_L)
    file = folder / "config.json"
    content = json.loads(file.read_text())
    text = {key: content["text_config"][key] for key in ("hidden_size", "num_attention_heads", "num_hidden_layers")}
    content["text_config_dict"] = {**text, "intermediate_size": 256, "projection_dim": 48}
    content["text_config"] |= {"eos_token_id": 2, "bos_token_id": 0, "num_beams": 1, "torch_dtype": None, "top_k": 50}
    content["vision_config_dict"] = {"hidden_size": 1024}
    file.write_text(json.dumps({**content, "torch_dtype": "float32", "transformers_version": None}))


@pytest.mark.parametrize(
    "write",
    [
        *(clip_text, clip_whole, clip_bin, clip_shards, clip_shards_without_index, clip_bin_shards),
        *(clip_old_buffers, clip_old_config),
    ],
)
@pytest.mark.parametrize("write_tokenizer", [write_clip_tokenizer, write_slow_clip_tokenizer])
def test_huggingface_clip(
    write: Callable[[Path], None], write_tokenizer: Callable[[Path], None], tmp_path: Path, clip_reference: TextEncoder
) -> None:
    write(tmp_path)
    write_tokenizer(tmp_path)
    encoder = load("clip_l", tmp_path)
    assert encoder.identity.weights_sha256 == clip_reference.identity.weights_sha256
    assert encoder.identity.tokenizer_sha256 == clip_reference.identity.tokenizer_sha256
    assert same(encode(encoder, AWKWARD_CAPTIONS), encode(clip_reference, AWKWARD_CAPTIONS))
    assert described(encoder, EncoderConfig(str(tmp_path)))


def test_shards_without_text_tensors_are_not_needed(tmp_path: Path, clip_reference: TextEncoder) -> None:
    write_clip_model(tmp_path, CLIP_L)
    write_clip_tokenizer(tmp_path)
    to_shards(tmp_path, count=200)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    vision = {file for name, file in index.items() if name.startswith(("vision", "visual"))}
    assert len(vision) > 5
    for file in vision:
        (tmp_path / file).unlink()
    assert load("clip_l", tmp_path).identity.weights_sha256 == clip_reference.identity.weights_sha256


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
@pytest.mark.parametrize("prefix", ["", "text."])
@pytest.mark.parametrize(("name", "model"), [("clip_l", CLIP_L), ("clip_g", CLIP_G)])
def test_open_clip_equals_its_huggingface_counterpart(
    name: EncoderName, model: torch.nn.Module, prefix: str, file: str, tmp_path: Path
) -> None:
    write_open_clip(tmp_path / "open_clip", model, name=file, prefix=prefix)
    model.save_pretrained(tmp_path / "huggingface")
    write_clip_tokenizer(tmp_path / "huggingface")
    ours = load(name, EncoderConfig(str(tmp_path / "open_clip")))
    counterpart = load(name, tmp_path / "huggingface")
    assert ours.identity.tokenizer == "open_clip"
    assert ours.identity.architecture["activation"] == counterpart.identity.architecture["activation"]
    assert described(ours, EncoderConfig(str(tmp_path / "open_clip")))
    # Captions that both tokenizers read alike: neither cleaning nor special strings in them.
    captions = ["", "a photo of a dog", "word " * 100, "hi!!! wow !"]
    assert same(encode(ours, captions), encode(counterpart, captions), tolerance=2e-5)
    with torch.inference_mode():
        token_ids = torch.tensor([[49406, 320, 49407, *[ours.tokenizer.pad_id] * 74]])
        expected = model(token_ids, output_hidden_states=True)
        output = ours.encode(token_ids, torch.tensor([3]))
    assert (output.hidden - expected.hidden_states[-2]).abs().max() <= 2e-5
    assert (output.pooled - expected.text_embeds).abs().max() <= 2e-5
    assert (output.eos - expected.last_hidden_state[:, 2]).abs().max() <= 2e-5


def test_open_clip_digest_does_not_depend_on_its_layout(tmp_path: Path) -> None:
    write_open_clip(tmp_path / "a", CLIP_G)
    write_open_clip(tmp_path / "b", CLIP_G, name="open_clip_pytorch_model.bin", prefix="text.")
    write_open_clip(tmp_path / "other", small_clip(9, width=64, projection=80, layers=4, activation="gelu"))
    digests = [load("clip_g", tmp_path / part).identity.weights_sha256 for part in ("a", "b", "other")]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(("name", "activation"), [("clip_l", "quick_gelu"), ("clip_g", "gelu")])
def test_bare_open_clip_file_is_read_from_its_shapes(name: EncoderName, activation: str, tmp_path: Path) -> None:
    model = small_clip(5, width=64, layers=2, activation=activation)
    model.config.num_attention_heads = 1  # heads of 64, which every published CLIP has
    write_open_clip(tmp_path / "whole", model)
    bare = tmp_path / "weights.safetensors"
    shutil.copy(tmp_path / "whole" / "open_clip_model.safetensors", bare)
    encoder, expected = load(name, bare), load(name, tmp_path / "whole")
    assert encoder.identity.architecture == expected.identity.architecture
    assert same(encode(encoder, AWKWARD_CAPTIONS), encode(expected, AWKWARD_CAPTIONS))


def test_open_clip_weights_win_over_huggingface_files_beside_them(tmp_path: Path) -> None:
    """The published bigG repository holds both, and a Hugging Face tokenizer that pads differently."""
    CLIP_G.save_pretrained(tmp_path)
    write_clip_tokenizer(tmp_path)
    write_open_clip(tmp_path, CLIP_G)
    both = load("clip_g", tmp_path)
    assert both.identity.tokenizer == "open_clip"
    assert both.identity.architecture["class"] == "open_clip.TextTransformer"
    asked = load("clip_g", EncoderConfig(str(tmp_path), tokenizer=str(tmp_path)))
    assert asked.identity.tokenizer == "transformers"
    assert asked.identity.pad_token_id == both.identity.pad_token_id == 0


@pytest.mark.parametrize("change", [None, to_bin, to_shards])
@pytest.mark.parametrize("decoder", [False, True])
def test_t5(change: Callable[[Path], None] | None, decoder: bool, tmp_path: Path) -> None:
    reference_folder, folder = tmp_path / "reference", tmp_path / "changed"
    T5.save_pretrained(reference_folder)
    write_t5_tokenizer(reference_folder)
    if decoder:
        write_t5_with_decoder(folder, T5)
    else:
        T5.save_pretrained(folder)
    write_t5_tokenizer(folder)
    if change:
        change(folder)
    encoder, reference = load("t5", folder), load("t5", reference_folder)
    assert encoder.identity.weights_sha256 == reference.identity.weights_sha256
    assert same(encode(encoder, AWKWARD_CAPTIONS), encode(reference, AWKWARD_CAPTIONS))
    assert described(encoder, EncoderConfig(str(folder)))


def test_t5_with_the_older_name_of_its_embedding(tmp_path: Path) -> None:
    for name in ("shared", "embed_tokens"):
        T5.save_pretrained(tmp_path / name)
        write_t5_tokenizer(tmp_path / name)
    weights = tmp_path / "embed_tokens" / "model.safetensors"
    state = load_file(weights)
    state["encoder.embed_tokens.weight"] = state.pop("shared.weight")
    save_file(state, weights)
    left, right = (load("t5", tmp_path / name) for name in ("shared", "embed_tokens"))
    assert left.identity.weights_sha256 == right.identity.weights_sha256


def test_t5_with_a_sentencepiece_model_only(tmp_path: Path) -> None:
    T5.save_pretrained(tmp_path)
    write_spiece_model(tmp_path)
    output = encode(load("t5", tmp_path), ["a photo of 3 dogs", ""])
    assert output.hidden.isfinite().all()


def test_whole_sd3_folder_and_its_subfolders_are_the_same(tmp_path: Path) -> None:
    write_sd3(tmp_path, CLIP_L, CLIP_G, T5)
    folders: dict[EncoderName, str] = {"clip_l": "text_encoder", "clip_g": "text_encoder_2", "t5": "text_encoder_3"}
    for name, subfolder in folders.items():
        whole = load(name, tmp_path).identity
        for config in (
            EncoderConfig(str(tmp_path), subfolder=subfolder),
            EncoderConfig(str(tmp_path / subfolder)),
            EncoderConfig(str(tmp_path / subfolder), tokenizer=str(tmp_path)),
            EncoderConfig(str(tmp_path), tokenizer_subfolder=subfolder.replace("text_encoder", "tokenizer")),
        ):
            identity = describe_encoder(
                name, config, padding="max_length", compute_dtype="float32", storage_dtype="bfloat16"
            )
            assert identity.model_copy(update={"source": whole.source}) == whole
    assert load("clip_g", tmp_path).identity.hidden_size == 64
    assert load("t5", tmp_path).identity.pooled_size is None


def test_reduced_precision_is_taken_only_if_nothing_else_is_there(tmp_path: Path) -> None:
    CLIP_L.save_pretrained(tmp_path)
    write_clip_tokenizer(tmp_path)
    full = load("clip_l", tmp_path).identity.weights_sha256
    state = load_file(tmp_path / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in state.items()}, tmp_path / "model.fp16.safetensors")
    assert load("clip_l", tmp_path).identity.weights_sha256 == full
    to_bin(tmp_path)
    assert load("clip_l", tmp_path).identity.weights_sha256 == full
    (tmp_path / "pytorch_model.bin").unlink()
    assert load("clip_l", tmp_path).identity.weights_sha256 != full


def test_bfloat16_rounds_the_weights_once(clip_reference: TextEncoder) -> None:
    rounded = load("clip_l", clip_reference.identity.source, compute_dtype="bfloat16")
    output, expected = encode(rounded, AWKWARD_CAPTIONS), encode(clip_reference, AWKWARD_CAPTIONS)
    assert output.hidden.dtype == torch.bfloat16
    assert (output.hidden.float() - expected.hidden).abs().mean() < 0.02 * expected.hidden.abs().mean()
    assert rounded.identity.weights_sha256 == clip_reference.identity.weights_sha256

"""Writers of small random-weight checkpoints in the layouts users have."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from pipeline.encoders.demo_vocabulary import demo_t5_tokenizer
from pipeline.encoders.demo_weights import clip_tokenizer

AWKWARD_CAPTIONS = [
    "",
    " ",
    "a photo of a dog",
    "!",
    "hi!!! wow !",
    "wow! so nice!!",
    "word " * 100,
    "x" * 3000,
    "🐕‍🦺 emoji 🎉🎉 café naïve",
    "“smart quotes” ‘single’ — dash…",
    "AT&amp;T &lt;b&gt;bold&lt;/b&gt; &#39;quoted&#39;",
    "line one\nline two\r\n\tand a tab",
    "雪の中の犬，一只狗 안녕하세요",
    "<|endoftext|> in the middle <|startoftext|> of it",
    "</s> and <pad> and <unk> too",
    "MiXeD CaSe WITH Ünïcödé ΣΊΣΥΦΟΣ",
    "it's they're we'll I'd 1234 3.14 v2",
    "zero\u200bwidth \u00a0nbsp \u3000ideographic ﬁ ligature ½",
    "cafe\u0301 decomposed",
    "schÃ¶n mojibake",
    "a\x00b control \x1f chars",
]


def randomize(module: nn.Module, seed: int) -> None:
    """Gives every parameter a random value, norms and biases included: a default would hide a tensor left out."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            values = 0.1 * noise + ("norm" in name and name.endswith("weight"))
        elif "embed" in name or name == "shared.weight":
            values = 0.5 * noise
        else:
            values = noise * parameter.shape[-1] ** -0.5
        parameter.data.copy_(values)
    module.eval()


def small_clip(
    seed: int,
    *,
    width: int = 64,
    layers: int = 3,
    projection: int | None = None,
    activation: str = "quick_gelu",
    eos_token_id: int = 49407,
) -> CLIPTextModelWithProjection:
    """A CLIP text tower with the real vocabulary and heads of 16."""
    model = CLIPTextModelWithProjection(
        CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_attention_heads=width // 16,
            num_hidden_layers=layers,
            projection_dim=projection or width,
            hidden_act=activation,
            eos_token_id=eos_token_id,
            architectures=["CLIPTextModelWithProjection"],
        )
    )
    randomize(model, seed)
    return model


def small_t5(seed: int, *, width: int = 192, layers: int = 2, activation: str = "gated-gelu") -> T5EncoderModel:
    """A T5 encoder for the demo tokenizer's vocabulary."""
    model = T5EncoderModel(_t5_config(width, layers, activation))
    randomize(model, seed)
    return model


def _t5_config(width: int, layers: int, activation: str) -> T5Config:
    return T5Config(
        vocab_size=928, d_model=width, d_kv=16, d_ff=2 * width, num_heads=4, num_layers=layers,
        feed_forward_proj=activation, tie_word_embeddings=False, dropout_rate=0.1,
    )  # fmt: skip


def write_clip_model(folder: Path, text: CLIPTextModelWithProjection) -> None:
    """A whole CLIPModel, vision tower included, around the text tower."""
    config = text.config
    # As in the published files, only the top level knows the projection's width: the part says transformers' default.
    text_config = {**config.to_dict(), "projection_dim": 512}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = CLIPModel(
        CLIPConfig(
            text_config=text_config,
            vision_config={**vision, "image_size": 32, "patch_size": 16},
            projection_dim=config.projection_dim,
        )
    )
    missing, unexpected = whole.load_state_dict(text.state_dict(), strict=False)
    assert not unexpected
    assert not any(name.startswith("text") for name in missing)
    whole.save_pretrained(folder)


def write_t5_with_decoder(folder: Path, encoder: T5EncoderModel) -> None:
    """A whole T5 around the encoder."""
    config = encoder.config
    whole = T5ForConditionalGeneration(_t5_config(config.d_model, config.num_layers, config.feed_forward_proj))
    missing, unexpected = whole.load_state_dict(encoder.state_dict(), strict=False)
    assert not unexpected
    assert not any(name.startswith("encoder") for name in missing)
    whole.save_pretrained(folder)


def open_clip_state(model: CLIPTextModelWithProjection) -> dict[str, torch.Tensor]:
    """The same weights under open_clip's names: query, key and value in one matrix, the projection transposed."""
    state = {name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
    result = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
    }
    renamed = {
        "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }  # fmt: skip
    for layer in range(model.config.num_hidden_layers):
        old, new = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            qkv = [state[f"{old}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            result[f"{new}attn.in_proj_{kind}"] = torch.cat(qkv)
            result |= {f"{new}{b}.{kind}": state[f"{old}{a}.{kind}"] for a, b in renamed.items()}
    return result


def open_clip_config(model: CLIPTextModelWithProjection, **text_cfg: Any) -> dict[str, Any]:
    """The open_clip_config.json of the same model."""
    config = model.config
    sizes = {
        "context_length": config.max_position_embeddings, "vocab_size": config.vocab_size,
        "width": config.hidden_size, "heads": config.num_attention_heads, "layers": config.num_hidden_layers,
    }  # fmt: skip
    model_cfg = {"embed_dim": config.projection_dim, "vision_cfg": {"layers": 1}, "text_cfg": {**sizes, **text_cfg}}
    if config.hidden_act == "quick_gelu":
        model_cfg["quick_gelu"] = True
    return {"model_cfg": model_cfg, "preprocess_cfg": {}}


def write_open_clip(
    folder: Path, model: CLIPTextModelWithProjection, *, name: str = "open_clip_model.safetensors", prefix: str = ""
) -> None:
    """An open_clip checkpoint with something of a vision tower; `prefix` "text." is the newer of its two layouts."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {prefix + key: value.contiguous() for key, value in open_clip_state(model).items()}
    state |= {"visual.proj": torch.randn(4, 4), "logit_scale": torch.tensor(1.0)}
    if name.endswith(".safetensors"):
        save_file(state, folder / name)
    else:
        torch.save({"epoch": 1, "state_dict": {f"module.{key}": value for key, value in state.items()}}, folder / name)
    (folder / "open_clip_config.json").write_text(json.dumps(open_clip_config(model)))


def to_bin(folder: Path) -> None:
    """Turns a folder's model.safetensors into pytorch_model.bin."""
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()


def to_shards(folder: Path, *, count: int = 3, suffix: str = ".safetensors", index: bool = True) -> None:
    """Splits a folder's model.safetensors into shards with an index."""
    weights = folder / "model.safetensors"
    state = load_file(weights)
    weights.unlink()
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    weight_map = {}
    for number in range(count):
        file = f"{stem}-{number + 1:05d}-of-{count:05d}{suffix}"
        part = dict(sorted(state.items())[number::count])
        weight_map |= dict.fromkeys(part, file)
        if suffix == ".safetensors":
            save_file(part, folder / file)
        else:
            torch.save(part, folder / file)
    if index:
        content = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(content))


@cache
def _clip_tokenizer_files(pad_token: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        clip_tokenizer(pad_token).save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def write_clip_tokenizer(folder: Path, *, pad_token: str = "<|endoftext|>") -> None:
    """The real CLIP tokenizer as tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _clip_tokenizer_files(pad_token).items():
        (folder / name).write_bytes(content)


def write_slow_clip_tokenizer(folder: Path, *, pad_token: str = "<|endoftext|>") -> None:
    """The real CLIP tokenizer as the published repositories have it: vocab.json and merges.txt."""
    document = json.loads(_clip_tokenizer_files(pad_token)["tokenizer.json"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(document["model"]["vocab"]))
    merges = [" ".join(merge) for merge in document["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    specials = {0: "!", 49406: "<|startoftext|>", 49407: "<|endoftext|>"}
    rules = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    content = {
        "tokenizer_class": "CLIPTokenizer",
        "pad_token": pad_token,
        "model_max_length": 77,
        "added_tokens_decoder": {
            str(at): {"content": token, **rules} for at, token in specials.items() if at or token == pad_token
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(content))


def write_t5_tokenizer(folder: Path) -> None:
    """The demo's T5 tokenizer as tokenizer.json."""
    demo_t5_tokenizer().save_pretrained(folder)


def write_spiece_model(folder: Path) -> None:
    """A trained sentencepiece model with T5's special ids, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    sentences = [caption for caption in AWKWARD_CAPTIONS if caption.strip() and "\x00" not in caption] * 3
    sentences += [
        f"a photo of {count} dogs near the {place}" for count in range(40) for place in ("river", "old house")
    ]
    with (folder / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_writer=file, vocab_size=300, model_type="unigram", pad_id=0,
            eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip


def write_sd3(
    folder: Path, clip_l: CLIPTextModelWithProjection, clip_g: CLIPTextModelWithProjection, t5: T5EncoderModel
) -> None:
    """The text side of a Stable Diffusion 3 repository: tokenizer_2 pads with "!", as the published one does."""
    for model, name in ((clip_l, "text_encoder"), (clip_g, "text_encoder_2"), (t5, "text_encoder_3")):
        model.save_pretrained(folder / name)
    write_clip_tokenizer(folder / "tokenizer")
    write_clip_tokenizer(folder / "tokenizer_2", pad_token="!")
    write_t5_tokenizer(folder / "tokenizer_3")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusion3Pipeline"}))

"""Extracts the three text towers once, so that a cluster does not download vision towers and decoders on every node.

The published repositories hold about 44 GB; the text towers in bfloat16 are 11 GB. The output has a folder for each
encoder, in the layout its source had (Hugging Face's or open_clip's), which `load_encoder` reads like any other:

    OUTPUT/clip_l    OUTPUT/clip_g    OUTPUT/t5     configuration, safetensors, tokenizer files, source.json

Weights are rounded to the dtype once. An encoder that computes in bfloat16 gives the same values from the output as
from the source; one that computes in float32 does not, unless the dtype is "keep". Either way `weights_sha256` differs
from the source's where the dtype does, so a dataset is made with the one or with the other.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file

from pipeline.encoders.checkpoints import OPEN_CLIP_CONFIG, Checkpoint, find_checkpoint
from pipeline.encoders.clip_huggingface import text_config
from pipeline.encoders.config import EncoderConfig, option
from pipeline.encoders.find_tokenizer import OPEN_CLIP, TOKENIZER_FILES, tokenizer_folder, uses_open_clip
from pipeline.encoders.load import open_tower
from pipeline.encoders.tensor_files import WeightsDigest
from pipeline.encoders.towers import TextTower, stored_tensors
from schemas.errors import ConfigError
from schemas.identity import ENCODER_NAMES, EncoderName

WeightsDtype = Literal["bfloat16", "float32", "keep"]


@dataclass(frozen=True)
class PrepareWeightsConfig:
    """What to extract, and where to."""

    output: str
    """Local folder to write the encoders' folders into; they must not exist yet."""

    clip_l: EncoderConfig = field(default_factory=lambda: EncoderConfig("openai/clip-vit-large-patch14"))
    """CLIP-L/14 by OpenAI."""

    clip_g: EncoderConfig = field(default_factory=lambda: EncoderConfig("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"))
    """OpenCLIP ViT-bigG/14."""

    t5: EncoderConfig = field(default_factory=lambda: EncoderConfig("google/t5-v1_1-xxl"))
    """T5 v1.1 XXL; only its encoder is kept."""

    dtype: WeightsDtype = "bfloat16"
    """What the weights are rounded to; "keep" leaves them as they are."""

    shard_bytes: int = 2_000_000_000
    """Largest weights file written; the memory needed is about this much."""


@dataclass(frozen=True)
class PreparedEncoder:
    """One extracted encoder.

    Attributes:
        name: Which of the three.
        folder: Where it lies.
        weights_sha256: Digest of the tower as written.
        weights_bytes: Size of its weights.
        options: Options of `encode` that use it as it was configured here.
    """

    name: EncoderName
    folder: str
    weights_sha256: str
    weights_bytes: int
    options: tuple[str, ...]


def run(config: PrepareWeightsConfig) -> list[PreparedEncoder]:
    """Extracts all three encoders; each appears in the output whole or not at all.

    Raises:
        ConfigError: A folder of the output exists, an option is out of range, or a source cannot be used.
    """
    output = Path(config.output).expanduser()
    if config.dtype not in get_args(WeightsDtype) or config.shard_bytes <= 0:
        raise ConfigError(
            "option-out-of-range",
            where="--dtype, --shard-bytes",
            expected=f"one of {', '.join(get_args(WeightsDtype))}; a positive size",
            actual=f"{config.dtype}, {config.shard_bytes}",
            remedy="choose values in these ranges",
        )
    taken = [str(output / name) for name in ENCODER_NAMES if (output / name).exists()]
    if taken:
        raise ConfigError(
            "output-exists",
            where=", ".join(taken),
            expected="folders that do not exist yet",
            actual="something is there, and nothing is ever overwritten",
            remedy="choose another output, or remove them",
        )
    output.mkdir(parents=True, exist_ok=True)
    return [_prepare(name, getattr(config, name), config, output) for name in ENCODER_NAMES]


def _prepare(name: EncoderName, encoder: EncoderConfig, config: PrepareWeightsConfig, output: Path) -> PreparedEncoder:
    checkpoint = find_checkpoint(name, encoder)
    tower = open_tower(name, encoder, checkpoint)
    draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=output))
    try:
        options = _copy_tokenizer(name, encoder, checkpoint, draft, output / name)
        _write_config(checkpoint, tower, draft, config.dtype)
        digest, size = _write_weights(checkpoint, tower, draft, config)
        source = {"source": encoder.source, "revision": checkpoint.revision, "weights_sha256": digest}
        (draft / "source.json").write_text(json.dumps(source, indent=2), encoding="utf-8")
        draft.chmod(0o755)
        draft.rename(output / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return PreparedEncoder(
        name, str(output / name), digest, size, (option(name, "source"), str(output / name), *options)
    )


def _copy_tokenizer(
    name: EncoderName, encoder: EncoderConfig, checkpoint: Checkpoint, draft: Path, final: Path
) -> tuple[str, ...]:
    """Copies the tokenizer files beside the weights and returns the options that select the same tokenizer again."""
    switch = (f"{option(name, 'exclamation_as_pad')}",) if encoder.exclamation_as_pad else ()
    if uses_open_clip(encoder, checkpoint):
        return () if checkpoint.layout == "open_clip" else (option(name, "tokenizer"), OPEN_CLIP)
    folder = tokenizer_folder(name, encoder, checkpoint)
    for file in TOKENIZER_FILES:
        if (folder / file).is_file():
            shutil.copyfile(folder / file, draft / file)
    # Beside open_clip weights, open_clip's tokenizer would be taken.
    return (*((option(name, "tokenizer"), str(final)) if checkpoint.layout == "open_clip" else ()), *switch)


def _write_config(checkpoint: Checkpoint, tower: TextTower, draft: Path, dtype: WeightsDtype) -> None:
    if checkpoint.layout == "open_clip":
        architecture = tower.architecture
        text_cfg = {
            "context_length": architecture["positions"],
            "vocab_size": architecture["vocab_size"],
            "width": architecture["width"],
            "heads": architecture["heads"],
            "layers": architecture["layers"],
            "mlp_ratio": _mlp_ratio(architecture),
            "tokenizer_kwargs": {"clean": tower.tokenizer_clean},
        }
        model_cfg = {"embed_dim": tower.pooled_size, "quick_gelu": architecture["activation"] == "quick_gelu"}
        path = draft / OPEN_CLIP_CONFIG
        content: dict[str, Any] = {"model_cfg": {**model_cfg, "text_cfg": text_cfg}}
    else:
        source = checkpoint.config if checkpoint.layout == "t5" else text_config(checkpoint).to_dict()
        architectures = [tower.architecture["class"]]
        path = draft / "config.json"
        content = {**source, "architectures": architectures}
        content.pop("torch_dtype", None)
        content |= {} if dtype == "keep" else {"dtype": dtype}
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _mlp_ratio(architecture: dict[str, str | int | float | bool | None]) -> float:
    width, mlp_width = architecture["width"], architecture["mlp_width"]
    assert isinstance(width, int)
    assert isinstance(mlp_width, int)
    # int(width * ratio) must give the width back, whatever the division rounds to.
    return (mlp_width + 0.5) / width if mlp_width % width else mlp_width / width


def _write_weights(
    checkpoint: Checkpoint, tower: TextTower, draft: Path, config: PrepareWeightsConfig
) -> tuple[str, int]:
    """Writes the tower's tensors shard by shard; returns its digest and size in bytes."""
    digest, total = WeightsDigest(), 0
    weight_map: dict[str, int] = {}
    stem = "open_clip_model" if checkpoint.layout == "open_clip" else "model"
    parts: list[Path] = []
    for shard in _shards(checkpoint, tower, config):
        parts.append(draft / f"{stem}-part-{len(parts)}.safetensors")
        for name, tensor in shard.items():
            digest.add(name, tensor)
            total += tensor.nbytes
        stored = {_spelling(checkpoint, name): tensor for name, tensor in shard.items()}
        weight_map |= dict.fromkeys(stored, len(parts))
        save_file(stored, parts[-1], metadata={"format": "pt"})
        with parts[-1].open("rb") as file:
            os.fsync(file.fileno())
    if len(parts) == 1:
        parts[0].rename(draft / f"{stem}.safetensors")
    else:
        names = [f"{stem}-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]
        for part, name in zip(parts, names, strict=True):
            part.rename(draft / name)
        index = {
            "metadata": {"total_size": total},
            "weight_map": {key: names[at - 1] for key, at in weight_map.items()},
        }
        (draft / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return digest.hexdigest(), total


def _shards(
    checkpoint: Checkpoint, tower: TextTower, config: PrepareWeightsConfig
) -> Iterator[dict[str, torch.Tensor]]:
    shard: dict[str, torch.Tensor] = {}
    for name, stored in stored_tensors(tower, checkpoint.tensors):
        tensor = stored if config.dtype == "keep" else stored.to(getattr(torch, config.dtype))
        if shard and sum(kept.nbytes for kept in shard.values()) + tensor.nbytes > config.shard_bytes:
            yield shard
            shard = {}
        shard[name] = tensor.contiguous()
    yield shard


def _spelling(checkpoint: Checkpoint, parameter: str) -> str:
    """Name of a parameter in the written file: the layout's usual one."""
    if checkpoint.layout != "t5":
        return parameter
    return "shared.weight" if parameter == "embed_tokens.weight" else f"encoder.{parameter}"

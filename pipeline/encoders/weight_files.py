"""Chooses the weight files of a folder: one file, or shards with or without an index."""

from __future__ import annotations

import re

from pipeline.encoders.file_trees import FileTree
from schemas.errors import ConfigError

# In order of preference. Reduced precision comes last: it is rounded, and T5 in fp16 may already hold infinities.
HUGGINGFACE_STEMS = (
    ("model", ".safetensors"),
    ("pytorch_model", ".bin"),
    ("model.bf16", ".safetensors"),
    ("model.fp16", ".safetensors"),
    ("pytorch_model.bf16", ".bin"),
    ("pytorch_model.fp16", ".bin"),
)
OPEN_CLIP_STEMS = (
    ("open_clip_model", ".safetensors"),
    ("open_clip_pytorch_model", ".safetensors"),
    ("open_clip_model", ".bin"),
    ("open_clip_pytorch_model", ".bin"),
)
# Shards that hold nothing but these are not fetched: the vision tower of bigG alone is 7 GB.
_UNUSED_TENSORS = re.compile(r"^(module\.)?(visual\.|vision_model\.|visual_projection\.|decoder\.|lm_head\.)")


def choose_weights(tree: FileTree, folder: str, stems: tuple[tuple[str, str], ...]) -> list[str] | None:
    """Names of the weight files to read in a folder, by preference of `stems`; None if there are none.

    Raises:
        ConfigError: Shards are missing.
    """
    names = tree.names_in(folder)
    for stem, suffix in stems:
        if f"{stem}{suffix}" in names:
            return [f"{stem}{suffix}"]
        index = next((name for name in _index_names(stem, suffix) if name in names), None)
        shards = _shards_of_index(tree, folder, index) if index else _numbered_shards(names, stem, suffix)
        if not shards:
            continue
        missing = [name for name in shards if name not in names]
        if missing:
            raise ConfigError(
                "weights-shard-missing",
                where=f"{tree.where} {folder}".strip(),
                expected=", ".join(shards),
                actual=f"missing: {', '.join(missing)}",
                remedy="fetch the missing files",
            )
        return shards
    return None


def _index_names(stem: str, suffix: str) -> list[str]:
    base, _, variant = stem.partition(".")
    # transformers and diffusers put the variant in different places of an index's name.
    return [f"{stem}{suffix}.index.json", *([f"{base}{suffix}.index.{variant}.json"] if variant else [])]


def _shards_of_index(tree: FileTree, folder: str, index: str) -> list[str]:
    path = f"{folder}/{index}" if folder else index
    weight_map = tree.read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or any("/" in str(file) or "\\" in str(file) for file in weight_map.values()):
        raise ConfigError(
            "weights-index-invalid",
            where=f"{tree.where} {path}",
            expected="a weight_map of tensor names to file names in the same folder",
            actual=str(weight_map)[:200],
            remedy="fetch the index again",
        )
    return sorted({str(file) for name, file in weight_map.items() if not _UNUSED_TENSORS.match(name)})


def _numbered_shards(names: frozenset[str], stem: str, suffix: str) -> list[str]:
    pattern = re.compile(rf"{re.escape(stem)}-\d{{5}}-of-(\d{{5}}){re.escape(suffix)}")
    total = next((int(match[1]) for name in sorted(names) if (match := pattern.fullmatch(name))), 0)
    return [f"{stem}-{number:05d}-of-{total:05d}{suffix}" for number in range(1, total + 1)]

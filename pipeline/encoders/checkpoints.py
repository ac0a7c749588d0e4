"""Finds a text encoder's files in whatever layout the user has them.

Layouts:

- `huggingface_clip`: config.json with model.safetensors or pytorch_model.bin (one file or shards with an index), of a
  whole CLIPModel or a CLIPTextModelWithProjection;
- `open_clip`: open_clip_model.safetensors or open_clip_pytorch_model.bin with open_clip_config.json, or a bare file;
- `t5`: config.json with the weights of a T5 model, with or without its decoder.

Each may lie at the root of the source, in `subfolder`, or in the folder its encoder usually has: text_encoder,
text_encoder_2 and text_encoder_3 of a Stable Diffusion 3 repository; clip_l, clip_g and t5 of what prepare-weights
wrote. Where a folder holds both CLIP layouts, open_clip's is taken. Within a layout the order is safetensors, .bin, and
only then files of reduced precision ("model.fp16.safetensors").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.encoders.config import RANDOM_SOURCE, EncoderConfig, option
from pipeline.encoders.file_trees import FileTree, LocalTree, open_tree, require_no_revision
from pipeline.encoders.tensor_files import TensorFiles
from pipeline.encoders.weight_files import HUGGINGFACE_STEMS, OPEN_CLIP_STEMS, choose_weights
from schemas.errors import ConfigError
from schemas.identity import EncoderName

Layout = Literal["huggingface_clip", "open_clip", "t5"]
PIPELINE_FOLDERS: dict[EncoderName, str] = {
    "clip_l": "text_encoder",
    "clip_g": "text_encoder_2",
    "t5": "text_encoder_3",
}
OPEN_CLIP_CONFIG = "open_clip_config.json"


@dataclass(frozen=True)
class Checkpoint:
    """Files of one text encoder, all on the local disk.

    Attributes:
        source: As the user gave it.
        revision: Commit of a Hugging Face source.
        layout: How tensors and configuration are laid out.
        config: Content of config.json or of open_clip_config.json; empty for a bare open_clip file.
        tensors: The weight files, opened.
        tree: Files of the source, where a tokenizer may lie beside the weights.
        folder: Folder of the weights inside `tree`.
    """

    source: str
    revision: str | None
    layout: Layout
    config: dict[str, Any] = field(repr=False)
    tensors: TensorFiles = field(repr=False)
    tree: FileTree = field(repr=False)
    folder: str


def find_checkpoint(name: EncoderName, config: EncoderConfig) -> Checkpoint:
    """Finds, downloads if need be, and opens the weights of an encoder.

    Raises:
        ConfigError: Nothing usable was found; the message says what was looked for and what is there.
    """
    source_option = option(name, "source")
    if config.source == RANDOM_SOURCE:
        from pipeline.encoders.demo_weights import demo_encoder_folder

        require_no_revision(config.source, config.revision, source_option)
        return _from_tree(name, config, LocalTree(demo_encoder_folder(name)))
    path = Path(config.source).expanduser()
    if path.is_file():
        require_no_revision(config.source, config.revision, source_option)
        return _from_file(name, config, path)
    return _from_tree(name, config, open_tree(config.source, config.revision, source_option))


def _from_tree(name: EncoderName, config: EncoderConfig, tree: FileTree) -> Checkpoint:
    usual = [PIPELINE_FOLDERS[name], name, ""]
    folders = usual if config.subfolder is None else [config.subfolder.strip("/")]
    for folder in folders:
        found = _layout_in(name, tree, folder)
        if found is None:
            continue
        layout, config_name, weights = found
        prefix = f"{folder}/" if folder else ""
        root = tree.fetch([prefix + file for file in weights])
        return Checkpoint(
            source=config.source,
            revision=tree.revision,
            layout=layout,
            config=tree.read_json(prefix + config_name) if config_name else {},
            tensors=TensorFiles(root / (prefix + file) for file in weights),
            tree=tree,
            folder=folder,
        )
    raise _nothing_found(name, tree, folders)


def _layout_in(name: EncoderName, tree: FileTree, folder: str) -> tuple[Layout, str | None, list[str]] | None:
    """Layout, configuration file and weight files of a folder, or None if it holds no encoder of this kind."""
    names = tree.names_in(folder)
    if name != "t5":
        open_clip = choose_weights(tree, folder, OPEN_CLIP_STEMS)
        if open_clip is None and OPEN_CLIP_CONFIG in names and "config.json" not in names:
            open_clip = choose_weights(tree, folder, HUGGINGFACE_STEMS)
        if open_clip is not None:
            return "open_clip", OPEN_CLIP_CONFIG if OPEN_CLIP_CONFIG in names else None, open_clip
    if "config.json" not in names:
        return None
    weights = choose_weights(tree, folder, HUGGINGFACE_STEMS)
    return None if weights is None else ("t5" if name == "t5" else "huggingface_clip", "config.json", weights)


def _from_file(name: EncoderName, config: EncoderConfig, path: Path) -> Checkpoint:
    tensors = TensorFiles([path])
    tree = LocalTree(path.parent)
    names = tree.names_in("")
    layout: Layout
    if name == "t5":
        layout, config_name = "t5", "config.json"
    elif {"token_embedding.weight", "text.token_embedding.weight"} & tensors.names:
        layout, config_name = "open_clip", OPEN_CLIP_CONFIG
    else:
        layout, config_name = "huggingface_clip", "config.json"
    if config_name not in names and layout != "open_clip":
        raise ConfigError(
            "encoder-config-missing",
            where=str(path),
            expected="config.json beside the weights file",
            actual=f"only {_some(names)}",
            remedy="put the model's config.json into the same folder",
        )
    content = tree.read_json(config_name) if config_name in names else {}
    return Checkpoint(config.source, None, layout, content, tensors, tree, "")


def _nothing_found(name: EncoderName, tree: FileTree, folders: list[str]) -> ConfigError:
    layouts = "config.json with model.safetensors or pytorch_model.bin"
    if name != "t5":
        layouts += ", or open_clip_model.safetensors or open_clip_pytorch_model.bin"
    places = ", ".join(repr(folder or ".") for folder in folders)
    return ConfigError(
        "weights-not-found",
        where=tree.where,
        expected=f"{layouts}, in {places}",
        actual=f"these files: {_some(tree.files)}",
        remedy=f"name the folder that holds the {name} text encoder by {option(name, 'subfolder')}",
    )


def _some(names: frozenset[str]) -> str:
    listed = sorted(names)[:12]
    return ", ".join(listed) + (f" and {len(names) - len(listed)} more" if len(names) > len(listed) else "") or "none"

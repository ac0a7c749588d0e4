"""Finds and loads the tokenizer that belongs to a checkpoint."""

from __future__ import annotations

from pathlib import Path

from pipeline.encoders.checkpoints import PIPELINE_FOLDERS, Checkpoint
from pipeline.encoders.config import EncoderConfig, option
from pipeline.encoders.file_trees import FileTree, LocalTree, open_tree
from pipeline.encoders.towers import TextTower
from pipeline.tokenizers import CaptionTokenizer, OpenClipTokenizer, load_huggingface_tokenizer
from schemas.errors import ConfigError
from schemas.identity import EncoderName

OPEN_CLIP = "open_clip"
# All that a transformers tokenizer may be made of.
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def load_tokenizer(
    name: EncoderName, config: EncoderConfig, checkpoint: Checkpoint, tower: TextTower
) -> CaptionTokenizer:
    """The tokenizer the options name, or the one that belongs to the checkpoint.

    Raises:
        ConfigError: There is none, or its ids do not fit the encoder.
    """
    open_clip = uses_open_clip(config, checkpoint)
    if name == "t5" and open_clip:
        raise _invalid_option(name, config, "tokenizer", "a T5 tokenizer")
    if config.exclamation_as_pad and (name == "t5" or open_clip):
        raise _invalid_option(name, config, "exclamation_as_pad", "a Hugging Face CLIP tokenizer with this switch")
    if open_clip:
        tokenizer: CaptionTokenizer = OpenClipTokenizer(
            max_tokens=config.max_tokens, clean=tower.tokenizer_clean, pad_with_eos=name == "clip_l"
        )
    else:
        folder = tokenizer_folder(name, config, checkpoint)
        tokenizer = load_huggingface_tokenizer(
            name, folder, max_tokens=config.max_tokens, exclamation_as_pad=config.exclamation_as_pad
        )
    _require_fit(name, tokenizer, tower)
    return tokenizer


def uses_open_clip(config: EncoderConfig, checkpoint: Checkpoint) -> bool:
    """Whether open_clip's own tokenizer makes the ids."""
    if config.tokenizer is not None:
        return config.tokenizer == OPEN_CLIP
    return checkpoint.layout == "open_clip" and config.tokenizer_subfolder is None


def tokenizer_folder(name: EncoderName, config: EncoderConfig, checkpoint: Checkpoint) -> Path:
    """Local folder with the Hugging Face tokenizer files of an encoder.

    Raises:
        ConfigError: No such files were found.
    """
    if config.tokenizer is not None:
        tree = open_tree(config.tokenizer, config.tokenizer_revision, option(name, "tokenizer"))
        places = [PIPELINE_FOLDERS[name].replace("text_encoder", "tokenizer"), name, ""]
    else:
        tree, places = checkpoint.tree, _places_beside(checkpoint)
    if config.tokenizer_subfolder is not None:
        places = [config.tokenizer_subfolder.strip("/")]
    for place in places:
        found = _tokenizer_in(name, tree, place)
        if found is not None:
            return found
    if config.tokenizer is None and config.tokenizer_subfolder is None:
        found = _tokenizer_of_sibling(name, checkpoint)
        if found is not None:
            return found
    raise ConfigError(
        "tokenizer-not-found",
        where=tree.where,
        expected=f"{_one_of(name)}, in one of {', '.join(repr(place or '.') for place in places)}",
        actual="no such files",
        remedy=f"name the tokenizer by {option(name, 'tokenizer')}",
    )


def _places_beside(checkpoint: Checkpoint) -> list[str]:
    folder = checkpoint.folder
    parent, _, last = folder.rpartition("/")
    sibling = f"{parent}/" * bool(parent) + last.replace("text_encoder", "tokenizer")
    places = [folder, *([sibling] if sibling != folder else []), f"{folder}/tokenizer" if folder else "tokenizer"]
    return [*places, ""] if folder and "text_encoder" not in folder else places


def _tokenizer_of_sibling(name: EncoderName, checkpoint: Checkpoint) -> Path | None:
    """Where the source itself is `.../text_encoder_2`, its tokenizer is in `.../tokenizer_2`."""
    if checkpoint.folder or not isinstance(checkpoint.tree, LocalTree):
        return None
    folder = Path(checkpoint.tree.where).expanduser().resolve()
    sibling = folder.with_name(folder.name.replace("text_encoder", "tokenizer"))
    return _tokenizer_in(name, LocalTree(sibling), "") if sibling != folder and sibling.is_dir() else None


def _tokenizer_in(name: EncoderName, tree: FileTree, place: str) -> Path | None:
    names = tree.names_in(place)
    byte_pairs = {"vocab.json", "merges.txt"} <= names
    if not ("tokenizer.json" in names or ("spiece.model" in names if name == "t5" else byte_pairs)):
        return None
    prefix = f"{place}/" if place else ""
    return tree.fetch([prefix + file for file in TOKENIZER_FILES if file in names]) / place


def _invalid_option(name: EncoderName, config: EncoderConfig, field: str, expected: str) -> ConfigError:
    return ConfigError(
        "tokenizer-option-invalid",
        where=option(name, field),
        expected=expected,
        actual=str(getattr(config, field)),
        remedy="leave the option out, or name a Hugging Face tokenizer",
    )


def _require_fit(name: EncoderName, tokenizer: CaptionTokenizer, tower: TextTower) -> None:
    facts = None
    if tokenizer.vocab_size > tower.vocab_size:
        facts = (f"ids below {tower.vocab_size}", f"ids up to {tokenizer.vocab_size - 1}")
    elif tower.eos_id is not None and tower.eos_id != tokenizer.eos_id:
        facts = (f"EOS id {tower.eos_id}, as the encoder's configuration says", f"EOS id {tokenizer.eos_id}")
    if facts is not None:
        raise ConfigError(
            "tokenizer-does-not-fit",
            where=option(name, "tokenizer"),
            expected=facts[0],
            actual=f"the tokenizer has {facts[1]}",
            remedy="use the tokenizer published with the encoder",
        )


def _one_of(name: EncoderName) -> str:
    return "tokenizer.json or spiece.model" if name == "t5" else "tokenizer.json, or vocab.json and merges.txt"

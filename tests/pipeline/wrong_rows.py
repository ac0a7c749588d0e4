"""A dataset under a right manifest in which every row has a mistake of its own, made by transformers' own models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import CLIPTextModelWithProjection, T5EncoderModel

import tests.datasets
from pipeline.encoders import EncoderConfig, TextEncoder, load_encoder
from pipeline.encoders.demo_weights import clip_tokenizer, demo_encoder_folder
from schemas.identity import ENCODER_NAMES, EncoderIdentity, Padding
from schemas.planes import STORAGE_DTYPES, merge_planes, split_planes
from tests.datasets import Sample, write_dataset
from tests.pipeline.encoding import make_manifest

Values = dict[str, npt.NDArray[Any]]
Change = Callable[[str, Values], npt.NDArray[Any]]
CAPTION = "a photo of a dog on the beach, in oil"
OTHER = "two cats and a bird"
LONG = "a man and a woman, two dogs, a bird, the sea and some of the old houses of it in the north"
MAX_TOKENS = {"clip_l": 20, "clip_g": 20, "t5": 40}
PADS = {"clip_l": 49407, "clip_g": 0, "t5": 0}


@cache
def encoders(padding: Padding) -> dict[str, TextEncoder]:
    """The demo's, float32 stored as bfloat16."""
    return {
        name: load_encoder(
            name,
            EncoderConfig("random", max_tokens=MAX_TOKENS[name]),
            padding=padding,
            compute_dtype="float32",
            storage_dtype="bfloat16",
            device="cpu",
        )
        for name in ENCODER_NAMES
    }


@cache
def clip() -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection.from_pretrained(demo_encoder_folder("clip_l")).eval()


@cache
def t5() -> T5EncoderModel:
    return T5EncoderModel.from_pretrained(demo_encoder_folder("t5")).eval()


def ids_of(name: str, caption: str) -> list[int]:
    return encoders("none")[name].tokenizer([caption]).ids[0].tolist()


def padded(name: str, ids: list[int]) -> list[int]:
    """As the manifest says."""
    return ids + [PADS[name]] * (MAX_TOKENS[name] - len(ids))


def clip_output(ids: list[int]) -> Any:
    """transformers' output for one row of ids, with all states."""
    with torch.no_grad():
        return clip()(torch.tensor([ids]), output_hidden_states=True)


def clip_values(ids: list[int], pad: int = PADS["clip_l"]) -> tuple[int, Values]:
    """What CLIP-L makes of ids, padded; without an EOS, pooled and eos are of BOS."""
    row = ids + [pad] * (MAX_TOKENS["clip_l"] - len(ids))
    output = clip_output(row)
    eos = output.last_hidden_state[0, row.index(49407) if 49407 in row else 0]
    pooled = eos @ clip().text_projection.weight.T.detach()
    return len(ids), {"hidden": output.hidden_states[-2][0].numpy(), "eos": eos.numpy(), "pooled": pooled.numpy()}


def t5_values(ids: list[int], length: int, *, masked: bool = False, stored: int | None = None) -> tuple[int, Values]:
    """What T5 makes of ids padded to a length."""
    row = torch.tensor([ids + [0] * (length - len(ids))])
    mask = (torch.arange(length) < len(ids))[None].long() if masked else torch.ones_like(row)
    with torch.no_grad():
        hidden = t5()(row, attention_mask=mask).last_hidden_state[0]
    return len(ids), {"hidden": hidden[:stored].numpy()}


@cache
def right(padding: Padding, name: str, caption: str) -> tuple[int, Values]:
    """By the encoders' own padded path."""
    encoder, ids = encoders(padding)[name], ids_of(name, caption)
    width = MAX_TOKENS[name] if padding == "max_length" else len(ids)
    row = torch.tensor([ids + [PADS[name]] * (width - len(ids))])
    output = encoder.encode(row, torch.tensor([len(ids)]))
    found = {"hidden": output.hidden, "pooled": output.pooled, "eos": output.eos}
    return len(ids), {field: tensor[0].numpy() for field, tensor in found.items() if tensor is not None}


@dataclass(frozen=True)
class Mistake:
    """A row's mistake, and what `verify` is to say of it.

    Attributes:
        encoder: Whose part of the row is wrong.
        make: The number of tokens and the values to store for the caption.
        cause: To be found, and nothing else.
        text: A part of the explanation.
        fields: Tensors that it is about.
        caption: Of the row.
    """

    encoder: str
    make: Callable[[str], tuple[int, Values]]
    cause: str
    text: str
    fields: tuple[str, ...]
    caption: str = CAPTION


def write(url: Path, padding: Padding, mistakes: dict[str, Mistake]) -> str:
    """A dataset of one row for each mistake, and a row of `OTHER` that is right."""

    def tensors(identity: EncoderIdentity, sample: Sample) -> tuple[int, Values]:
        mistake = mistakes.get(sample.key)
        is_wrong = mistake is not None and mistake.encoder == identity.name
        assert sample.caption is not None
        num_tokens, values = mistake.make(sample.caption) if is_wrong else right(padding, identity.name, sample.caption)
        return num_tokens, {field: tensor.astype(STORAGE_DTYPES["bfloat16"]) for field, tensor in values.items()}

    # Each with a caption of its own, as rows of one caption cannot be told apart.
    rows = [Sample("right", OTHER), *(Sample(key, mistake.caption) for key, mistake in mistakes.items())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tests.datasets, "tensors", tensors)
        write_dataset(str(url), make_manifest(encoders(padding), chunk_rows=64), {"txt": {"s": rows}})
    return str(url)


def changed(padding: Padding, name: str, **changes: Change) -> Callable[[str], tuple[int, Values]]:
    """Right values but for some tensors; a change is given the caption and the right values."""

    def make(caption: str) -> tuple[int, Values]:
        num_tokens, values = right(padding, name, caption)
        return num_tokens, values | {field: change(caption, values) for field, change in changes.items()}

    return make


def swapped_planes(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """bfloat16 with its bytes in reverse order."""
    planes = split_planes(values.astype(STORAGE_DTYPES["bfloat16"]))
    return merge_planes(planes[::-1], "bfloat16").reshape(values.shape)


def clip_state(caption: str, layer: int) -> npt.NDArray[Any]:
    """transformers' `hidden_states[layer]`."""
    hidden: npt.NDArray[Any] = clip_output(padded("clip_l", ids_of("clip_l", caption))).hidden_states[layer][0].numpy()
    return hidden


def clip_at(caption: str, position: int) -> dict[str, npt.NDArray[Any]]:
    """pooled and eos of another position."""
    eos = clip_output(padded("clip_l", ids_of("clip_l", caption))).last_hidden_state[0, position]
    return {"eos": eos.numpy(), "pooled": (eos @ clip().text_projection.weight.T.detach()).numpy()}


def t5_state(caption: str, layer: int) -> npt.NDArray[Any]:
    """transformers' `hidden_states[layer]`."""
    with torch.no_grad():
        output = t5()(torch.tensor([padded("t5", ids_of("t5", caption))]), output_hidden_states=True)
    hidden: npt.NDArray[Any] = output.hidden_states[layer][0].numpy()
    return hidden


def zero_pads(caption: str, values: Values) -> npt.NDArray[Any]:
    """hidden with zeros for pads."""
    there = np.arange(len(values["hidden"])) < len(ids_of("clip_l", caption))
    return np.where(there[:, None], values["hidden"], 0)


def sd3_ids(caption: str) -> list[int]:
    """By the tokenizer_2 of Stable Diffusion 3, which takes "!" for padding."""
    ids: list[int] = clip_tokenizer("!")(caption).input_ids
    return ids


def foreign_ids(caption: str) -> list[int]:
    """As if by another vocabulary, from the fourth token on."""
    ids = ids_of("clip_l", caption)
    return [*ids[:3], *(id_ + 1000 for id_ in ids[3:-1]), ids[-1]]


_ALL = ("hidden", "pooled", "eos")


def _clip(**changes: Change) -> Callable[[str], tuple[int, Values]]:
    return changed("max_length", "clip_l", **changes)


def _t5(**changes: Change) -> Callable[[str], tuple[int, Values]]:
    return changed("max_length", "t5", **changes)


MAX_LENGTH: dict[str, Mistake] = {
    "clip-last-layer": Mistake(
        "clip_l", _clip(hidden=lambda c, _: clip_state(c, -1)), "layer", "4 of 4 layers, without", ("hidden",)
    ),
    "clip-earlier-layer": Mistake(
        "clip_l", _clip(hidden=lambda c, _: clip_state(c, 2)), "layer", "2 of 4 layers, without", ("hidden",)
    ),
    "clip-final-norm": Mistake(
        "clip_l",
        _clip(hidden=lambda c, _: clip_output(padded("clip_l", ids_of("clip_l", c))).last_hidden_state[0].numpy()),
        "layer",
        "4 of 4 layers, with the",
        ("hidden",),
    ),
    "clip-pads-zero": Mistake("clip_l", _clip(hidden=zero_pads), "padding", "zeros", ("hidden",)),
    "clip-pad-id": Mistake(
        "clip_l", lambda c: clip_values(ids_of("clip_l", c), pad=0), "padding", "with id 0, not 49407", ("hidden",)
    ),
    "clip-last-position": Mistake(
        "clip_l",
        _clip(pooled=lambda c, _: clip_at(c, -1)["pooled"], eos=lambda c, _: clip_at(c, -1)["eos"]),
        "position",
        "token 19, the last",
        ("pooled", "eos"),
    ),
    "clip-unprojected": Mistake(
        "clip_l", _clip(pooled=lambda _, v: v["eos"]), "position", "pooled is not projected", ("pooled",)
    ),
    "clip-exclamation": Mistake(
        "clip_l", lambda c: clip_values(sd3_ids(c)), "tokenizer", 'takes "!" for padding', _ALL, "wow! a cat! so nice"
    ),
    "clip-no-begin": Mistake(
        "clip_l", lambda c: clip_values(ids_of("clip_l", c)[1:]), "tokenizer", "without its begin token", _ALL
    ),
    "clip-cut": Mistake(
        "clip_l",
        lambda c: clip_values(clip_tokenizer()(c).input_ids[:20]),
        "tokenizer",
        "cut without its end token",
        _ALL,
        LONG,
    ),
    "clip-foreign": Mistake(
        "clip_l", lambda c: clip_values(foreign_ids(c)), "tokenizer", "tokens before 3 are right", _ALL
    ),
    "clip-row": Mistake("clip_l", lambda _: right("max_length", "clip_l", OTHER), "row", repr(OTHER), _ALL),
    "clip-bytes": Mistake(
        "clip_l", _clip(hidden=lambda _, v: swapped_planes(v["hidden"])), "bytes", "reverse order", ("hidden",)
    ),
    "clip-scale": Mistake(
        "clip_l", _clip(pooled=lambda _, v: 0.18215 * v["pooled"]), "scale", "0.182 times", ("pooled",)
    ),
    "clip-zeros": Mistake("clip_l", _clip(hidden=lambda _, v: 0 * v["hidden"]), "zeros", "zero", ("hidden",)),
    "clip-eos-unnormed": Mistake(
        "clip_l",
        _clip(eos=lambda c, _: clip_state(c, -1)[len(ids_of("clip_l", c)) - 1]),
        "layer",
        "4 of 4 layers, without",
        ("eos",),
    ),
    "t5-no-final-norm": Mistake(
        "t5", _t5(hidden=lambda c, _: t5_state(c, 3)), "layer", "3 of 4 layers, without", ("hidden",)
    ),
    "t5-masked": Mistake(
        "t5", lambda c: t5_values(ids_of("t5", c), 40, masked=True), "padding", "masked out", ("hidden",)
    ),
    "t5-longer": Mistake(
        "t5", lambda c: t5_values(ids_of("t5", c), 77, stored=40), "padding", "padded to 77 tokens", ("hidden",)
    ),
    "t5-no-end": Mistake(
        "t5", lambda c: t5_values(ids_of("t5", c)[:-1], 40), "tokenizer", "without its end token", ("hidden",)
    ),
    "t5-lower": Mistake(
        "t5",
        lambda c: t5_values(ids_of("t5", c.lower()), 40),
        "tokenizer",
        "lower case",
        ("hidden",),
        "A Photo of a Dog and THE SEA",
    ),
    "t5-foreign": Mistake(
        "t5", lambda c: t5_values([7, 8, 9, *ids_of("t5", c)], 40), "tokenizer", "tokens stored", ("hidden",)
    ),
    "t5-empty": Mistake("t5", lambda _: t5_values([1], 40), "tokenizer", "empty caption", ("hidden",)),
    "t5-row": Mistake("t5", lambda _: right("max_length", "t5", OTHER), "row", repr(OTHER), ("hidden",)),
    "t5-noise": Mistake(
        "t5",
        _t5(hidden=lambda _, v: np.random.default_rng(0).standard_normal(v["hidden"].shape)),
        "unknown",
        "nothing that was tried",
        ("hidden",),
    ),
}
"""For a manifest that says `max_length`."""

NONE: dict[str, Mistake] = {
    "t5-unmasked": Mistake(
        "t5", lambda c: _cut(t5_values(ids_of("t5", c), 77), c), "padding", "padded to 77 tokens", ("hidden",)
    ),
    "t5-batch-longest": Mistake(
        "t5", lambda c: _cut(t5_values(ids_of("t5", c), 33), c), "padding", "padded to 33 tokens", ("hidden",)
    ),
    "t5-pads-stored": Mistake(
        "t5", lambda c: t5_values(ids_of("t5", c), 40, masked=True), "padding", "40 tokens of hidden", ("hidden",)
    ),
    "t5-row": Mistake("t5", lambda _: right("none", "t5", OTHER), "row", repr(OTHER), ("hidden",)),
    "clip-last-layer": Mistake(
        "clip_l",
        changed("none", "clip_l", hidden=lambda c, v: clip_state(c, -1)[: len(v["hidden"])]),
        "layer",
        "4 of 4 layers, without",
        ("hidden",),
    ),
}
"""For a manifest that says `none`."""


def _cut(made: tuple[int, Values], caption: str) -> tuple[int, Values]:
    num_tokens, values = made
    return num_tokens, {"hidden": values["hidden"][: len(ids_of("t5", caption))]}

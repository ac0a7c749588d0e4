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
    """The demo's, as the manifest has them."""
    return {
        name: load_encoder(
            name,
            EncoderConfig("random", max_tokens=MAX_TOKENS[name]),
            padding=padding,
            compute_dtype="bfloat16",
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
    return len(ids), {field: tensor[0].float().numpy() for field, tensor in found.items() if tensor is not None}


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

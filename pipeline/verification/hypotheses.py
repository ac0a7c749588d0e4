"""What else stored values could be, if they are not what the manifest says.

Each hypothesis is values that the mistake would have led to, computed with the manifest's weights; which of them the
stored ones equal, `diagnosis.py` sees. Hypotheses about bytes turn it round: they read what is stored in another way.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass, field

import ftfy
import ml_dtypes
import numpy as np

from pipeline.encoders import TextEncoder
from pipeline.tokenizers import CaptionTokenizer
from pipeline.verification.comparison import FieldName, Tensor, Tensors, tensors_of
from pipeline.verification.other_tokenizers import long_tokenizer, other_tokenizers
from pipeline.verification.results import Cause
from pipeline.verification.sampling import SampledRow
from pipeline.verification.states import Ids, encode_ids, layer_states, outputs_at, padded
from schemas.identity import EncoderIdentity
from schemas.planes import merge_planes, split_planes
from schemas.row import EncodedCaption

_NEIGHBOURS_TRIED = 16
_USUAL_LENGTHS = (77, 128, 256, 512)
"""That T5's captions are padded to: Stable Diffusion 3's paper and releases, other models."""


@dataclass(frozen=True)
class Case:
    """One encoder's part of a row that is not what it should be.

    Attributes:
        row: As drawn.
        identity: The manifest's.
        expected: What it should be.
        failed: Tensors that are not.
        tokenizer: The manifest's.
    """

    row: SampledRow
    identity: EncoderIdentity
    expected: EncodedCaption
    failed: tuple[FieldName, ...]
    tokenizer: CaptionTokenizer = field(repr=False)

    @property
    def stored(self) -> EncodedCaption:
        """What the dataset has."""
        return self.row.stored[self.identity.name]

    @property
    def ids(self) -> Ids:
        """The caption's, without pads."""
        ids: Ids = self.tokenizer([self.row.caption]).ids[0]
        return ids

    @property
    def tokens_differ(self) -> bool:
        """Whether another number of tokens is stored than the caption has, or others were cut."""
        stored, expected = self.stored, self.expected
        return (stored.num_tokens, stored.truncated) != (expected.num_tokens, expected.truncated)

    def with_pads(self, ids: Ids) -> Ids:
        """Padded as the manifest says."""
        length = self.identity.max_tokens if self.identity.padding == "max_length" else 0
        return padded(ids, length, self.identity.pad_token_id)


@dataclass(frozen=True)
class Hypothesis:
    """A mistake, and what it would have led to.

    Attributes:
        cause: In a word.
        text: What the values are, if this is it.
        expected: Tensors under this hypothesis, as far as it has something to say about them.
        stored: What is stored, read in another way; None: as it is.
        num_tokens: Tokens of `hidden` it speaks of; None: all.
    """

    cause: Cause
    text: str
    expected: Tensors
    stored: Tensors | None = None
    num_tokens: int | None = None


def hypotheses(case: Case, encoder: TextEncoder) -> Iterator[Hypothesis]:
    """All that are quick to try, one by one.

    Args:
        case: The row.
        encoder: Of `load_for_any_ids`.
    """
    yield from _other_bytes(case)
    yield from _other_rows(case, encoder)
    yield from _other_layers(case, encoder)
    if case.identity.pooled_size is not None:
        yield from _other_positions(case, encoder)
    yield from _other_tokens(case, encoder)
    yield from _other_pads(case, encoder)


def pad_lengths(case: Case, encoder: TextEncoder) -> Iterator[Hypothesis]:
    """Every pad length up to the manifest's limit: for T5 alone, as no token of a CLIP sees what comes after it."""
    if case.identity.name == "t5":
        for length in range(len(case.ids) + 1, case.identity.max_tokens + 1):
            yield _padded_to(case, encoder, length)


def _other_bytes(case: Case) -> Iterator[Hypothesis]:
    stored, expected = tensors_of(case.stored), tensors_of(case.expected)
    dtype = case.identity.storage_dtype

    def swapped(values: Tensor) -> Tensor:
        return merge_planes(split_planes(values)[::-1], dtype).reshape(values.shape)

    yield Hypothesis(
        "bytes", "its byte planes are in reverse order", expected, {name: swapped(t) for name, t in stored.items()}
    )
    other = {"bfloat16": np.dtype(np.float16), "float16": np.dtype(ml_dtypes.bfloat16)}.get(dtype)
    if other is not None:
        text = f"its bytes are {other.name}, not {dtype}"
        yield Hypothesis("bytes", text, expected, {name: t.view(other) for name, t in stored.items()})


def _other_rows(case: Case, encoder: TextEncoder) -> Iterator[Hypothesis]:
    row = case.row
    captions = {
        place: caption for place, caption in enumerate(row.neighbours) if caption is not None and caption != row.caption
    }
    ids = dict(zip(captions, case.tokenizer(list(captions.values())).ids, strict=True)) if captions else {}
    # First those with as many tokens as are stored, then the nearest.
    order = sorted(ids, key=lambda at: (len(ids[at]) != case.stored.num_tokens, abs(at - row.place)))
    for place in order[:_NEIGHBOURS_TRIED]:
        distance = place - row.place
        text = f"these are the values of row {row.index + distance} ({distance:+d}), {captions[place][:40]!r}"
        yield Hypothesis("row", text, encode_ids(encoder, case.with_pads(ids[place])))


def _other_layers(case: Case, encoder: TextEncoder) -> Iterator[Hypothesis]:
    eos = int((case.ids == case.identity.eos_token_id).argmax())
    for state in layer_states(encoder, case.with_pads(case.ids)):
        yield Hypothesis("layer", f"hidden is {state}", {"hidden": state.values})
        if case.identity.pooled_size is not None:
            yield Hypothesis("layer", f"eos is {state}", {"eos": state.values[eos]})


def _other_positions(case: Case, encoder: TextEncoder) -> Iterator[Hypothesis]:
    ids = case.with_pads(case.ids)
    for position, vectors in enumerate(zip(*outputs_at(encoder, ids), strict=True)):
        what = "BOS" if position == 0 else "the last token" if position == len(ids) - 1 else "not the caption's EOS"
        text = f"taken at token {position}, {what}"
        yield Hypothesis("position", text, {"pooled": vectors[0], "eos": vectors[1]})
    right = tensors_of(case.expected)
    if right["pooled"].shape == right["eos"].shape:
        yield Hypothesis("position", "pooled is not projected", {"pooled": right["eos"]})
        yield Hypothesis("position", "eos is projected", {"eos": right["pooled"]})


def _other_tokens(case: Case, encoder: TextEncoder) -> Iterator[Hypothesis]:
    tried = {tuple(case.ids)}
    for text, ids in _token_variants(case, encoder):
        if len(ids) and tuple(ids) not in tried:
            tried.add(tuple(ids))
            yield Hypothesis("tokenizer", f"encoded {text}", encode_ids(encoder, case.with_pads(ids)))


def _token_variants(case: Case, encoder: TextEncoder) -> Iterator[tuple[str, Ids]]:
    caption, ids, limit = case.row.caption, case.ids, case.identity.max_tokens
    for text, tokenizer in other_tokenizers(case.identity):
        yield f"from the ids of {text}", tokenizer([caption]).ids[0]
    changed = {
        "as an empty caption": "",
        "in lower case": caption.lower(),
        "without white space around it": caption.strip(),
        "with its white space collapsed": " ".join(caption.split()),
        "with HTML entities decoded": html.unescape(html.unescape(caption)),
        "after cleaning by ftfy": html.unescape(html.unescape(ftfy.fix_text(caption))).strip(),
    }
    for text, other in changed.items():
        yield text, case.tokenizer([other]).ids[0]
    yield "without its end token", ids[:-1]
    if case.identity.name != "t5":
        yield "without its begin token", ids[1:]
    # The encoder's own tokenizer cuts T5's captions later than the manifest's; a CLIP's has no room to.
    longer = encoder.tokenizer if case.identity.name == "t5" else long_tokenizer(case.identity)
    if longer is not None and case.expected.truncated:
        yield "cut without its end token", longer([caption]).ids[0][:limit]


def _other_pads(case: Case, encoder: TextEncoder) -> Iterator[Hypothesis]:
    """Other pad ids, and pads masked or not."""
    own, ids = case.identity, case.ids
    if own.padding == "max_length":
        for pad_id in {0, 1, own.eos_token_id} - {own.pad_token_id}:
            values = encode_ids(encoder, padded(ids, own.max_tokens, pad_id))
            yield Hypothesis("padding", f"padded with id {pad_id}, not {own.pad_token_id}", values)
        text = "pads were masked out, against the manifest"
        yield Hypothesis("padding", text, {"hidden": encode_ids(encoder, ids)["hidden"]}, num_tokens=len(ids))
    if own.name == "t5":
        lengths = dict.fromkeys([own.max_tokens, len(case.stored.hidden), *_USUAL_LENGTHS])
        for length in lengths:
            if len(ids) < length <= encoder.identity.max_tokens:
                yield _padded_to(case, encoder, length)


def _padded_to(case: Case, encoder: TextEncoder, length: int) -> Hypothesis:
    own, num_tokens = case.identity, len(case.ids)
    values = encode_ids(encoder, padded(case.ids, length, own.pad_token_id))["hidden"][: own.max_tokens]
    rule = "masked" if own.padding == "none" else f"padded to {own.max_tokens}"
    text = f"padded to {length} tokens without a mask; by the manifest it is {rule}"
    # What is stored for pads, if anything, depends on what else was done to them.
    same = own.padding == "max_length" and length >= own.max_tokens
    return Hypothesis("padding", text, {"hidden": values}, num_tokens=None if same else num_tokens)

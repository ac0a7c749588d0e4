"""The mistakes of `wrong_rows.py`, and what `verify` is to say of each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.encoders.demo_weights import clip_tokenizer
from tests.pipeline.wrong_rows import (
    LONG,
    OTHER,
    Change,
    Mistake,
    Values,
    changed,
    clip_at,
    clip_output,
    clip_state,
    clip_values,
    foreign_ids,
    ids_of,
    padded,
    right,
    sd3_ids,
    swapped_planes,
    t5_state,
    t5_values,
    zero_pads,
)

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

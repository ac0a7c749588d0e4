"""Why a row is not what it should be: rounding, the hypothesis that fits, or what else can be said of it.

It is rounding if the same caption, encoded here in the manifest's compute dtype, is about as far from float32 as the
stored values are. A hypothesis fits if the stored values are as near to what it says as rounding lets them be, and at
least four times nearer than to what the manifest says (counted in 1 - cosine, or half the relative error's square).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.encoders import TextEncoder
from pipeline.verification.comparison import FieldName, Figures, compare, tensors_of
from pipeline.verification.hypotheses import Case, Hypothesis, hypotheses, pad_lengths
from pipeline.verification.results import Diagnosis
from schemas.planes import STORAGE_DTYPES
from schemas.row import EncodedCaption

_NEAR = {"float32": 0.9995, "bfloat16": 0.998, "float8": 0.98}
"""Cosine of the worst token that rounding leaves, with room to spare, by compute dtype."""
_TIMES_NEARER = 4


def explain(case: Case, encoder: TextEncoder) -> list[Diagnosis]:
    """The hypotheses that fit, and what the numbers of tokens say; tensors none of them explains are left out.

    Args:
        case: The row.
        encoder: Of `load_for_any_ids`.
    """
    fits = list(_fits(case, hypotheses(case, encoder)))
    if "hidden" in case.failed and all("hidden" not in fit.figures for fit in fits):
        fits += _fits(case, pad_lengths(case, encoder))
    found: list[Diagnosis] = []
    while left := set(remaining(case, found)):
        # One reason for all that is wrong is likelier than one for each tensor.
        best = max(fits, key=lambda fit: (len(left & set(fit.figures)), -fit.distance), default=None)
        if best is None or not left & set(best.figures):
            break
        fields = tuple(name for name in case.failed if name in best.figures and name in left)
        cosine = min(best.figures[name].cosine for name in fields)
        found.append(Diagnosis(best.hypothesis.cause, best.hypothesis.text, fields, cosine))
    if case.tokens_differ and not {diagnosis.cause for diagnosis in found} & {"row", "tokenizer"}:
        text = f"{_tokens(case.stored)} stored, {_tokens(case.expected)} by the manifest's tokenizer"
        found.append(Diagnosis("tokenizer", text, remaining(case, found), None))
    return found


def remaining(case: Case, found: Iterable[Diagnosis]) -> tuple[FieldName, ...]:
    """The failed tensors that these do not explain."""
    explained = {name for diagnosis in found for name in diagnosis.fields}
    return tuple(name for name in case.failed if name not in explained)


def is_rounding(case: Case, rounded: EncodedCaption) -> bool:
    """Whether all that failed is about as far from float32 as values computed here in the manifest's dtypes.

    Args:
        case: The row.
        rounded: What the manifest's compute dtype makes of the caption.
    """
    dtype = STORAGE_DTYPES[case.identity.storage_dtype]
    stored, expected, yardstick = (tensors_of(encoded) for encoded in (case.stored, case.expected, rounded))
    if case.tokens_differ:
        return False
    for name in case.failed:
        found = compare(stored[name], expected[name])
        usual = compare(yardstick[name].astype(dtype), expected[name])
        if not found.is_rounding_like(usual):
            return False
    return True


def describe(case: Case, fields: tuple[FieldName, ...]) -> Diagnosis:
    """What can be seen of tensors that nothing explains."""
    stored, expected = tensors_of(case.stored), tensors_of(case.expected)
    near = _NEAR[case.identity.compute_dtype]
    figures = {name: compare(stored[name], expected[name]) for name in fields}
    if not any(stored[name].any() for name in fields):
        return Diagnosis("zeros", "all values are zero", fields, None)
    if all(min(found.cosine, found.whole_cosine) >= near for found in figures.values()):
        name = fields[0]
        times = np.linalg.norm(stored[name].astype(np.float64)) / np.linalg.norm(expected[name].astype(np.float64))
        return Diagnosis(
            "scale", f"the values' directions are right, but {name} is {times:.3g} times as long", fields, None
        )
    if "hidden" in fields:
        return _describe_hidden(case, fields, near)
    return Diagnosis("unknown", "nothing that was tried fits", fields, None)


def _describe_hidden(case: Case, fields: tuple[FieldName, ...], near: float) -> Diagnosis:
    stored, expected, real = case.stored.hidden, case.expected.hidden, case.expected.num_tokens
    # Up to where it is right; a longer one is told by its length.
    good = 0
    while good < min(len(stored), len(expected)) and compare(stored[good], expected[good]).cosine >= near:
        good += 1
    if len(stored) != len(expected) and good >= min(real, len(stored)):
        text = f"{len(stored)} tokens of hidden are stored, {len(expected)} by the manifest's padding"
        return Diagnosis("padding", text, fields, None)
    if real <= good < len(expected):
        zeros = "zeros" if not stored[good:].any() else "masked, or filled in another way"
        text = f"real tokens are right, but pads from token {good} on are not: {zeros}"
        return Diagnosis("padding", text, fields, None)
    if good > 1 and case.identity.name != "t5":
        return Diagnosis("tokenizer", f"tokens before {good} are right: other ids from there on", fields, None)
    return Diagnosis("unknown", "nothing that was tried fits; other weights or an unknown tokenizer?", fields, None)


@dataclass(frozen=True)
class _Fit:
    """A hypothesis, and how near the failed tensors that it fits are to it."""

    hypothesis: Hypothesis
    figures: dict[FieldName, Figures]

    @property
    def distance(self) -> float:
        return max(map(_distance, self.figures.values()))


def _fits(case: Case, tried: Iterable[Hypothesis]) -> Iterator[_Fit]:
    for hypothesis in tried:
        figures = dict(_fitting(case, hypothesis))
        if figures:
            yield _Fit(hypothesis, figures)


def _fitting(case: Case, hypothesis: Hypothesis) -> Iterator[tuple[FieldName, Figures]]:
    stored, expected = tensors_of(case.stored), tensors_of(case.expected)
    read = stored if hypothesis.stored is None else hypothesis.stored
    for name in case.failed:
        if name not in hypothesis.expected or hypothesis.expected[name].shape[-1:] != read[name].shape[-1:]:
            continue
        # A vector has no tokens to be cut.
        cut = slice(hypothesis.num_tokens if name == "hidden" else None)
        figures = compare(read[name][cut], hypothesis.expected[name][cut])
        own = compare(stored[name][cut], expected[name][cut])
        near = figures.is_within(_NEAR[case.identity.compute_dtype])
        if near and _TIMES_NEARER * _distance(figures) < _distance(own):
            yield name, figures


def _distance(figures: Figures) -> float:
    return max(1 - figures.cosine, figures.relative_error**2 / 2)


def _tokens(encoded: EncodedCaption) -> str:
    return f"{encoded.num_tokens} tokens{', some cut,' if encoded.truncated else ''}"

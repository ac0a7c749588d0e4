"""What was found of each row that was drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.verification.comparison import FieldName, Figures
from pipeline.verification.sampling import SampledRow

Cause = Literal["rounding", "row", "bytes", "layer", "position", "tokenizer", "padding", "scale", "zeros", "unknown"]


@dataclass(frozen=True)
class Diagnosis:
    """What is the matter with some tensors of a row.

    Attributes:
        cause: In a word.
        text: In a sentence's part.
        fields: The tensors it explains.
        cosine: Between these and what the explanation says they are, the smallest; None where it has no values.
    """

    cause: Cause
    text: str
    fields: tuple[FieldName, ...]
    cosine: float | None


@dataclass
class EncoderResult:
    """What one encoder's part of a row is like.

    Attributes:
        figures: By tensor.
        stored_tokens: Real tokens, and whether some were cut, as stored.
        expected_tokens: The same, tokenized again.
        failed: Tensors that are not near enough.
        diagnoses: Of these; empty for a sound row, or where diagnosing was limited to fewer rows.
    """

    figures: Mapping[FieldName, Figures]
    stored_tokens: tuple[int, bool]
    expected_tokens: tuple[int, bool]
    failed: tuple[FieldName, ...]
    diagnoses: list[Diagnosis] = field(default_factory=list)

    @property
    def cosine(self) -> float:
        """The smallest."""
        return min(figures.cosine for figures in self.figures.values())

    @property
    def is_sound(self) -> bool:
        """Whether all tensors are near enough, and the number of tokens is right."""
        return not self.failed and self.stored_tokens == self.expected_tokens


@dataclass(frozen=True)
class RowResult:
    """A row, and what each encoder's part of it is like."""

    row: SampledRow
    encoders: dict[str, EncoderResult]

    @property
    def is_sound(self) -> bool:
        """Whether all of it is."""
        return all(result.is_sound for result in self.encoders.values())

    @property
    def cosine(self) -> float:
        """The smallest of any encoder and tensor."""
        return min(result.cosine for result in self.encoders.values())

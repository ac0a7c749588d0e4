"""What makes two encodings the same: everything that changes a stored value, and nothing that does not.

The identity is written into the manifest when a dataset is made and its digest into every ledger record. A run, a
resume or a reader whose identity differs is refused with the list of fields that differ, since a dataset of two
encodings cannot be told from a good one by looking at it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.errors import IdentityMismatchError

EncoderName = Literal["clip_l", "clip_g", "t5"]
ENCODER_NAMES: tuple[EncoderName, ...] = ("clip_l", "clip_g", "t5")

Padding = Literal["max_length", "none"]
ComputeDtype = Literal["float32", "bfloat16"]
StorageDtype = Literal["float32", "float16", "bfloat16"]


class EncoderIdentity(BaseModel):
    """One text encoder, exactly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: EncoderName
    source: str = Field(description="Hugging Face id or folder, as the user gave it")
    revision: str | None = Field(description="commit of the source where it has one")
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="digest of the text tower's tensors, see SPEC.md")
    tokenizer: str = Field(description="implementation that made the ids: 'transformers' or 'open_clip'")
    tokenizer_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="digest of vocabulary, merges and rules")
    exclamation_as_pad: bool = Field(description="a literal '!' becomes the pad id, as diffusers' tokenizer_2 has it")
    architecture: dict[str, str | int | float | bool | None]
    hidden_layer: str = Field(description="which state `hidden` is, e.g. 'penultimate, no final norm'")
    hidden_size: int = Field(gt=0)
    pooled_size: int | None = Field(description="width of `pooled`; None for an encoder without pooled output")
    max_tokens: int = Field(gt=0)
    pad_token_id: int
    eos_token_id: int
    padding: Padding
    attention_mask: bool = Field(description="whether pad tokens are masked out")
    compute_dtype: ComputeDtype
    storage_dtype: StorageDtype


class CaptionIdentity(BaseModel):
    """The three encoders of a dataset's caption groups."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clip_l: EncoderIdentity
    clip_g: EncoderIdentity
    t5: EncoderIdentity

    def encoder(self, name: str) -> EncoderIdentity:
        """The identity of one encoder; `name` is one of `ENCODER_NAMES`."""
        found = getattr(self, name)
        assert isinstance(found, EncoderIdentity)
        return found


def differences(expected: BaseModel, actual: BaseModel) -> list[str]:
    """One line for each field that differs, `path: expected -> actual`, in field order."""
    return _walk("", expected.model_dump(), actual.model_dump())


def _walk(path: str, left: object, right: object) -> list[str]:
    if isinstance(left, dict) and isinstance(right, dict):
        names = [*left, *(name for name in right if name not in left)]
        return [line for name in names for line in _walk(f"{path}.{name}".lstrip("."), left.get(name), right.get(name))]
    return [] if left == right else [f"{path}: {left!r} -> {right!r}"]


def require_same(expected: BaseModel, actual: BaseModel, *, where: str) -> None:
    """Refuses an identity that differs from the dataset's.

    Raises:
        IdentityMismatchError: With every differing field in `actual`.
    """
    lines = differences(expected, actual)
    if lines:
        raise IdentityMismatchError(
            "identity-mismatch",
            where=where,
            expected="the identity the dataset was made with",
            actual="these fields differ (dataset -> this run):\n    " + "\n    ".join(lines),
            remedy="use the options the dataset was made with, or write to a new --output",
        )

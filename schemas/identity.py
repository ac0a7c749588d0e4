"""What makes two encodings the same: everything that changes a stored value, and nothing that does not.

The identity is written into the manifest when a dataset is made and its digest into every ledger record. A run, a
resume or a reader whose identity differs is refused with the list of fields that differ, since a dataset of two
encodings cannot be told from a good one by looking at it.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from schemas.errors import IdentityMismatchError
from schemas.limits import MAX_BUCKETS
from schemas.planes import STORAGE_DTYPES

EncoderName = Literal["clip_l", "clip_g", "t5"]
ENCODER_NAMES: tuple[EncoderName, ...] = ("clip_l", "clip_g", "t5")

Padding = Literal["max_length", "none"]
ComputeDtype = Literal["float32", "bfloat16", "float8"]
"""float8: linear layers in float8 (e4m3), everything else in bfloat16."""
LatentComputeDtype = Literal["float32", "bfloat16"]
StorageDtype = Literal["float32", "float16", "bfloat16"]
LatentStorageDtype = Literal["float32", "float16", "bfloat16", "uint8"]
LatentKind = Literal["autoencoder_kl", "pixels"]


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

    @property
    def row_bytes(self) -> int:
        """Raw bytes of the tensors of a row of `max_tokens` tokens."""
        vectors = 0 if self.pooled_size is None else self.pooled_size + self.hidden_size
        return (self.max_tokens * self.hidden_size + vectors) * STORAGE_DTYPES[self.storage_dtype].itemsize


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

    @property
    def row_bytes(self) -> int:
        """Raw bytes of the tensors of the largest row there can be."""
        return sum(self.encoder(name).row_bytes for name in ENCODER_NAMES)


class LatentIdentity(BaseModel):
    """What made the `latents` group out of images, exactly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: LatentKind = Field(description="an autoencoder's latents, or the cropped pixels themselves")
    source: str = Field(description="Hugging Face id or folder of the autoencoder, as the user gave it; 'pixels'")
    revision: str | None = Field(description="commit of the source where it has one")
    weights_sha256: str | None = Field(pattern="^[0-9a-f]{64}$", description="digest of its tensors; None for pixels")
    architecture: dict[str, Any] = Field(description="the numbers of the autoencoder's config; {} for pixels")
    num_channels: int = Field(gt=0, description="of a stored tensor: 16 for SD3's autoencoder, 3 for pixels")
    downscale_factor: int = Field(gt=0, description="px of the image a side of a stored value: 8; 1 for pixels")
    shift_factor: float = Field(allow_inf_nan=False, description="stored = (z - shift_factor) * scaling_factor")
    scaling_factor: float = Field(allow_inf_nan=False, gt=0)
    posterior: Literal["mode"] | None = Field(description="what of the posterior is stored; None for pixels")
    resolution: int = Field(gt=0, description="px; every bucket has about resolution x resolution px")
    crop: Literal["center", "buckets"] = Field(description="one square, or the bucket nearest in aspect ratio")
    buckets: tuple[tuple[int, int], ...] = Field(
        min_length=1, max_length=MAX_BUCKETS, description="(height, width) px that occur"
    )
    resample: str = Field(description="filter the image is resized with, e.g. 'lanczos'")
    compute_dtype: LatentComputeDtype
    storage_dtype: LatentStorageDtype

    @field_validator("architecture")
    @classmethod
    def _is_flat(cls, architecture: dict[str, Any]) -> dict[str, Any]:
        values = [inner for value in architecture.values() for inner in (value if isinstance(value, list) else [value])]
        if any(isinstance(value, (dict, list)) for value in values):
            raise ValueError("an architecture of numbers, names and lists of them, nested no deeper")
        return architecture

    @model_validator(mode="after")
    def _fits_together(self) -> LatentIdentity:
        if self.kind == "pixels":
            fixed = (self.num_channels, self.downscale_factor, self.shift_factor, self.scaling_factor)
            if fixed != (3, 1, 0.0, 1.0) or self.storage_dtype != "uint8":
                raise ValueError("pixels are 3 channels of uint8, with factors 1, 0.0 and 1.0")
            if (self.weights_sha256, self.posterior, self.architecture) != (None, None, {}):
                raise ValueError("pixels have neither weights nor posterior nor architecture")
        elif self.storage_dtype == "uint8" or self.weights_sha256 is None or self.posterior is None:
            raise ValueError("an autoencoder's latents are floats, and have weights and a posterior")
        if len(set(self.buckets)) < len(self.buckets) or (self.crop == "center" and len(self.buckets) > 1):
            raise ValueError(f"each bucket once, and a single one for a center crop, not {self.buckets}")
        if any(side <= 0 or side % self.downscale_factor for bucket in self.buckets for side in bucket):
            raise ValueError(f"sides of buckets are multiples of {self.downscale_factor} px, not {self.buckets}")
        return self

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape [C, h, w] of the tensor stored for an image of a bucket.

        Args:
            height: Of the bucket, px.
            width: Of the bucket, px.
        """
        return self.num_channels, height // self.downscale_factor, width // self.downscale_factor

    @property
    def row_bytes(self) -> int:
        """Raw bytes of the largest image's tensor."""
        itemsize = STORAGE_DTYPES[self.storage_dtype].itemsize
        return max(math.prod(self.latent_shape(*bucket)) for bucket in self.buckets) * itemsize


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

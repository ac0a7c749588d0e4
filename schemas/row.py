"""Rows of a column group: one sample's caption and its encodings, or one sample's image latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import ContractError
from schemas.identity import ENCODER_NAMES, EncoderIdentity
from schemas.latent_manifest import LatentManifest
from schemas.manifest import Manifest
from schemas.planes import merge_planes, row_planes


@dataclass(frozen=True)
class EncodedCaption:
    """What one encoder made of one caption.

    Attributes:
        hidden: [T, D] in the storage dtype; T is `max_tokens` under padding "max_length", `num_tokens` under "none".
        pooled: [P], the projected state at EOS; None for T5.
        eos: [D], the final-norm state at EOS before projection; None for T5.
        num_tokens: Real tokens, begin and end tokens included.
        truncated: Whether tokens were cut to fit `max_tokens`.
    """

    hidden: npt.NDArray[np.generic]
    pooled: npt.NDArray[np.generic] | None
    eos: npt.NDArray[np.generic] | None
    num_tokens: int
    truncated: bool


class Row:
    """One sample of one column group. Tensors are decoded when they are asked for."""

    def __init__(self, batch: pa.RecordBatch, index: int, manifest: Manifest) -> None:
        self._batch = batch
        self._index = index
        self._manifest = manifest

    @property
    def key(self) -> str:
        """The sample's key: its path in the tar up to the first dot of the base name."""
        return str(self._batch.column("key")[self._index].as_py())

    @property
    def caption(self) -> str | None:
        """The caption as it stood in the tar; None where it could not be read."""
        caption: str | None = self._batch.column("caption")[self._index].as_py()
        return caption

    @property
    def is_null(self) -> bool:
        """Whether the row only holds a place: its input is in the rejects."""
        return not self._batch.column(ENCODER_NAMES[0])[self._index].is_valid

    def __getitem__(self, encoder: str) -> EncodedCaption:
        """What `encoder` ("clip_l", "clip_g" or "t5") made of the caption.

        Raises:
            KeyError: No such encoder.
            ContractError: The row is null.
        """
        if encoder not in ENCODER_NAMES:
            raise KeyError(f"{encoder!r} is not one of {', '.join(ENCODER_NAMES)}")
        column = self._batch.column(encoder)
        if not column[self._index].is_valid:
            raise _null(self.key)
        return _decode(column, self._index, self._manifest.captions.encoder(encoder))

    def __repr__(self) -> str:
        return f"Row(key={self.key!r}, caption={self.caption!r})"


class LatentRow:
    """One image of the group `latents`. The tensor is decoded when it is asked for."""

    def __init__(self, batch: pa.RecordBatch, index: int, manifest: LatentManifest) -> None:
        self._batch = batch
        self._index = index
        self._manifest = manifest

    @property
    def key(self) -> str:
        """The sample's key: its path in the tar up to the first dot of the base name."""
        return str(self._batch.column("key")[self._index].as_py())

    @property
    def is_null(self) -> bool:
        """Whether the row only holds a place: its image is in the rejects."""
        return not self._batch.column("image")[self._index].is_valid

    @property
    def original_size(self) -> tuple[int, int]:
        """Height and width of the source image, px."""
        return self._image("original_height", "original_width")

    @property
    def crop(self) -> tuple[int, int]:
        """Top and left edge of the crop in the resized image, px."""
        return self._image("crop_top", "crop_left")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the bucket, px."""
        return self._image("height", "width")

    @property
    def latents(self) -> npt.NDArray[np.generic]:
        """[C, height / f, width / f] in the storage dtype, f being the identity's `downscale_factor`.

        Raises:
            ContractError: The row is null.
        """
        identity = self._manifest.latents
        shape = identity.latent_shape(*self.size)
        planes = row_planes(self._batch.column("latents"), self._index)
        return merge_planes(planes, identity.storage_dtype).reshape(shape)

    def _image(self, first: str, second: str) -> tuple[int, int]:
        cell = self._batch.column("image")[self._index]
        if not cell.is_valid:
            raise _null(self.key)
        return cell[first].as_py(), cell[second].as_py()

    def __repr__(self) -> str:
        return f"LatentRow(key={self.key!r}, size={None if self.is_null else self.size})"


def _null(key: str) -> ContractError:
    return ContractError(
        "row-null",
        where=f"row {key!r}",
        expected="a row that was encoded",
        actual="a null row: the input is in the shard's rejects",
        remedy="check row.is_null first",
    )


def _decode(column: pa.StructArray, row: int, identity: EncoderIdentity) -> EncodedCaption:
    def tensor(name: str) -> npt.NDArray[np.generic]:
        return merge_planes(row_planes(column.field(name), row), identity.storage_dtype)

    has_pooled = identity.pooled_size is not None
    return EncodedCaption(
        hidden=tensor("hidden").reshape(-1, identity.hidden_size),
        pooled=tensor("pooled") if has_pooled else None,
        eos=tensor("eos") if has_pooled else None,
        num_tokens=column.field("num_tokens")[row].as_py(),
        truncated=column.field("truncated")[row].as_py(),
    )

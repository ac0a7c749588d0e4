"""The Arrow schema of the group `latents`, and record batches in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.arrow_schema import part_metadata
from schemas.identity import LatentIdentity
from schemas.latent_manifest import LATENTS_GROUP, LatentManifest
from schemas.planes import STORAGE_DTYPES, planes_column, planes_type

IMAGE_FIELDS: Final = ("original_height", "original_width", "crop_top", "crop_left", "height", "width")
"""Integers of the column `image`, px: the source image, where the crop begins in the resized image, the bucket."""

IMAGE_TYPE: Final = pa.struct([pa.field(name, pa.int32(), nullable=False) for name in IMAGE_FIELDS])


def latent_schema(manifest: LatentManifest, shard: str) -> pa.Schema:
    """Schema of a part: which columns, and in its metadata which group, shard and identity the part belongs to."""
    columns = [
        pa.field("key", pa.large_string(), nullable=False),
        pa.field("image", IMAGE_TYPE),
        pa.field("latents", planes_type(manifest.latents.storage_dtype)),
    ]
    return pa.schema(columns, metadata=part_metadata(LATENTS_GROUP, shard, manifest.identity_sha256))


@dataclass(frozen=True)
class LatentRows:
    """The encoded rows of a chunk, in row order, null rows left out.

    Attributes:
        original_size: int [rows, 2], height and width of the source image, px.
        crop: int [rows, 2], top and left edge of the crop in the resized image, px.
        size: int [rows, 2], height and width of the bucket, px.
        latents: Per row [C, height / f, width / f] of the storage dtype, f being the identity's `downscale_factor`.
    """

    original_size: npt.NDArray[np.integer]
    crop: npt.NDArray[np.integer]
    size: npt.NDArray[np.integer]
    latents: Sequence[npt.NDArray[np.generic]]


def latent_batch(
    schema: pa.Schema,
    identity: LatentIdentity,
    keys: Sequence[str],
    encoded: npt.NDArray[np.bool_],
    rows: LatentRows,
) -> pa.RecordBatch:
    """One chunk.

    Args:
        schema: From `latent_schema`.
        identity: The dataset's.
        keys: [rows].
        encoded: bool [rows]; False makes a null row.
        rows: The rows where `encoded` is True.
    """
    shapes = [identity.latent_shape(int(height), int(width)) for height, width in rows.size]
    assert [values.shape for values in rows.latents] == shapes, (identity, rows.size)
    numbers = np.zeros((len(keys), len(IMAGE_FIELDS)), np.int32)
    if rows.latents:
        numbers[encoded] = np.concatenate([rows.original_size, rows.crop, rows.size], axis=1)
    null = pa.array(~encoded)
    image = pa.StructArray.from_arrays(
        [pa.array(np.ascontiguousarray(column)) for column in numbers.T], fields=list(IMAGE_TYPE), mask=null
    )
    elements = np.zeros(len(keys), np.int64)
    elements[encoded] = [values.size for values in rows.latents]
    nothing = np.zeros(0, STORAGE_DTYPES[identity.storage_dtype])
    values = np.concatenate([nothing, *(values.reshape(-1) for values in rows.latents)])
    planes = planes_column(values, elements, identity.storage_dtype)
    latents = pa.StructArray.from_arrays(planes.flatten(), fields=list(planes.type), mask=null)
    return pa.record_batch([pa.array(keys, pa.large_string()), image, latents], schema=schema)

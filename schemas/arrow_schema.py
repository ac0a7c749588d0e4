"""The Arrow schema of a caption group, and record batches in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.identity import ENCODER_NAMES, CaptionIdentity, EncoderIdentity
from schemas.manifest import FORMAT_VERSION, Manifest
from schemas.planes import Planes, planes_column, planes_type

_Scalar = TypeVar("_Scalar", bound=np.generic)


def encoder_type(identity: EncoderIdentity) -> pa.StructType:
    """Arrow type of one encoder's column; null for a row without encoding."""
    tensor = planes_type(identity.storage_dtype)
    fields = [
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("hidden", tensor, nullable=False),
    ]
    if identity.pooled_size is not None:
        fields += [pa.field("pooled", tensor, nullable=False), pa.field("eos", tensor, nullable=False)]
    return pa.struct(fields)


def caption_schema(manifest: Manifest, group: str, shard: str) -> pa.Schema:
    """Schema of a part: which columns, and in its metadata which group, shard and identity the part belongs to."""
    columns = [
        pa.field("key", pa.large_string(), nullable=False),
        pa.field("caption", pa.large_string()),
        *(pa.field(name, encoder_type(manifest.captions.encoder(name))) for name in ENCODER_NAMES),
    ]
    return pa.schema(columns, metadata=part_metadata(group, shard, manifest.identity_sha256))


def part_metadata(group: str, shard: str, identity_sha256: str) -> dict[str, str]:
    """Whose a part is, stated in its schema, so that one that was moved to another name is found."""
    return {
        "encode_once.format_version": str(FORMAT_VERSION),
        "encode_once.group": group,
        "encode_once.shard": shard,
        "encode_once.identity_sha256": identity_sha256,
    }


@dataclass(frozen=True)
class EncoderRows:
    """One encoder's outputs for the encoded rows of a chunk, in row order, null rows left out.

    Attributes:
        num_tokens: int32 [rows].
        truncated: bool [rows].
        hidden: storage dtype [sum of stored tokens, D], row after row; this and the others as an array or as planes.
        hidden_tokens: int64 [rows], stored tokens of each row.
        pooled: storage dtype [rows, P], or None.
        eos: storage dtype [rows, D], or None.
    """

    num_tokens: npt.NDArray[np.int32]
    truncated: npt.NDArray[np.bool_]
    hidden: npt.NDArray[np.generic] | Planes
    hidden_tokens: npt.NDArray[np.int64]
    pooled: npt.NDArray[np.generic] | Planes | None
    eos: npt.NDArray[np.generic] | Planes | None


def caption_batch(
    schema: pa.Schema,
    identity: CaptionIdentity,
    keys: Sequence[str],
    captions: Sequence[str | None],
    encoded: npt.NDArray[np.bool_],
    encoders: Mapping[str, EncoderRows],
) -> pa.RecordBatch:
    """One chunk.

    Args:
        schema: From `caption_schema`.
        identity: The dataset's encoders.
        keys: [rows].
        captions: [rows]; kept for a null row too where it could be read.
        encoded: bool [rows]; False makes a null row.
        encoders: Outputs of every encoder for the rows where `encoded` is True.
    """
    columns = [pa.array(keys, pa.large_string()), pa.array(captions, pa.large_string())]
    for name in ENCODER_NAMES:
        columns.append(_encoder_column(identity.encoder(name), encoded, encoders[name]))
    return pa.record_batch(columns, schema=schema)


def _encoder_column(identity: EncoderIdentity, encoded: npt.NDArray[np.bool_], rows: EncoderRows) -> pa.StructArray:
    dtype = identity.storage_dtype
    arrays = [
        pa.array(_spread(rows.num_tokens, encoded)),
        pa.array(_spread(rows.truncated, encoded)),
        planes_column(rows.hidden, _spread(rows.hidden_tokens * identity.hidden_size, encoded), dtype),
    ]
    if identity.pooled_size is not None:
        assert rows.pooled is not None
        assert rows.eos is not None
        for values, width in ((rows.pooled, identity.pooled_size), (rows.eos, identity.hidden_size)):
            arrays.append(planes_column(values, encoded.astype(np.int64) * width, dtype))
    fields = list(encoder_type(identity))
    return pa.StructArray.from_arrays(arrays, fields=fields, mask=pa.array(~encoded))


def _spread(values: npt.NDArray[_Scalar], encoded: npt.NDArray[np.bool_]) -> npt.NDArray[_Scalar]:
    """Puts one value a non-null row into one a row, zeros for null rows."""
    out = np.zeros(len(encoded), values.dtype)
    out[encoded] = values
    return out

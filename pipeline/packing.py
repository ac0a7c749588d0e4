"""Encoded windows become the chunks of a group: record batches of exactly `chunk_rows` rows, but for the last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipeline.encoded import CaptionTensors, EncodedWindow
from schemas.arrow_schema import EncoderRows, caption_batch
from schemas.identity import ENCODER_NAMES, EncoderIdentity
from schemas.manifest import Manifest
from schemas.planes import STORAGE_DTYPES, Planes


def pack_chunks(windows: Iterable[EncodedWindow], schema: pa.Schema, manifest: Manifest) -> Iterator[pa.RecordBatch]:
    """Chunks in row order. Windows hold whole chunks, so none straddles two."""
    step = manifest.layout.chunk_rows
    for window in windows:
        for start in range(0, len(window.keys), step):
            rows = window.rows[start : start + step]
            found = [row for row in rows if row is not None]
            encoders: dict[str, EncoderRows] = {
                name: _encoder_rows(manifest.captions.encoder(name), [row[name] for row in found])
                for name in ENCODER_NAMES
            }
            yield caption_batch(
                schema,
                manifest.captions,
                window.keys[start : start + step],
                window.captions[start : start + step],
                np.array([row is not None for row in rows]),
                encoders,
            )


def _encoder_rows(identity: EncoderIdentity, captions: Sequence[CaptionTensors]) -> EncoderRows:
    has_pooled, num_planes = identity.pooled_size is not None, STORAGE_DTYPES[identity.storage_dtype].itemsize
    return EncoderRows(
        num_tokens=np.array([caption.num_tokens for caption in captions], np.int32),
        truncated=np.array([caption.truncated for caption in captions], bool),
        hidden=_concatenated([caption.hidden for caption in captions], num_planes),
        hidden_tokens=np.array([caption.stored_tokens for caption in captions], np.int64),
        pooled=_concatenated([caption.pooled for caption in captions], num_planes) if has_pooled else None,
        eos=_concatenated([caption.eos for caption in captions], num_planes) if has_pooled else None,
    )


def _concatenated(tensors: Sequence[Planes | None], num_planes: int) -> Planes:
    found = [planes for planes in tensors if planes is not None]
    if not found:
        return [np.empty(0, np.uint8)] * num_planes
    return [np.concatenate([planes[index] for planes in found]) for index in range(num_planes)]

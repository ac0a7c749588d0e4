"""Encoded windows become the chunks of a group: record batches of exactly `chunk_rows` rows, but for the last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.engine import CaptionTensors, EncodedWindow
from schemas.arrow_schema import EncoderRows, caption_batch
from schemas.identity import ENCODER_NAMES, EncoderIdentity
from schemas.manifest import Manifest
from schemas.planes import STORAGE_DTYPES


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
    has_pooled = identity.pooled_size is not None
    return EncoderRows(
        num_tokens=np.array([caption.num_tokens for caption in captions], np.int32),
        truncated=np.array([caption.truncated for caption in captions], bool),
        hidden=_concatenate([caption.hidden for caption in captions], identity),
        hidden_tokens=np.array([len(caption.hidden) for caption in captions], np.int64),
        pooled=_concatenate([caption.pooled for caption in captions], identity) if has_pooled else None,
        eos=_concatenate([caption.eos for caption in captions], identity) if has_pooled else None,
    )


def _concatenate(
    arrays: Sequence[npt.NDArray[np.generic] | None], identity: EncoderIdentity
) -> npt.NDArray[np.generic]:
    flat = [array.reshape(-1) for array in arrays if array is not None]
    return np.concatenate(flat) if flat else np.empty(0, STORAGE_DTYPES[identity.storage_dtype])

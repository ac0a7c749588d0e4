"""Encoded windows become the chunks of a group: record batches of exactly `chunk_rows` rows, but for the last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.encoded import CaptionTensors, EncodedCaption, EncodedWindow
from schemas.arrow_schema import EncoderRows, caption_batch
from schemas.identity import ENCODER_NAMES, EncoderIdentity
from schemas.manifest import Manifest
from schemas.parts import LazyBatch
from schemas.planes import STORAGE_DTYPES, Planes


def pack_chunks(windows: Iterable[EncodedWindow], schema: pa.Schema, manifest: Manifest) -> Iterator[LazyBatch]:
    """Chunks in row order, each packed by the thread that encodes it. Windows hold whole chunks; none straddles two."""
    step = manifest.layout.chunk_rows
    for window in windows:
        for start in range(0, len(window.keys), step):
            rows = window.rows[start : start + step]
            keys, captions = window.keys[start : start + step], window.captions[start : start + step]
            yield LazyBatch(_raw_bytes(manifest, rows), partial(_pack, schema, manifest, keys, captions, rows))


def _num_values(identity: EncoderIdentity, captions: Sequence[CaptionTensors]) -> int:
    """Values that one encoder's tensors hold."""
    vectors = 0 if identity.pooled_size is None else identity.pooled_size + identity.hidden_size
    return sum(caption.stored_tokens for caption in captions) * identity.hidden_size + len(captions) * vectors


def _raw_bytes(manifest: Manifest, rows: Sequence[EncodedCaption | None]) -> int:
    """Of the tensors of a chunk."""
    total = 0
    for name in ENCODER_NAMES:
        identity = manifest.captions.encoder(name)
        total += _num_values(identity, [row[name] for row in rows if row is not None]) * _num_planes(identity)
    return total


def _pack(
    schema: pa.Schema,
    manifest: Manifest,
    keys: Sequence[str],
    captions: Sequence[str | None],
    rows: Sequence[EncodedCaption | None],
) -> pa.RecordBatch:
    by_encoder = {name: [row[name] for row in rows if row is not None] for name in ENCODER_NAMES}
    identities = {name: manifest.captions.encoder(name) for name in ENCODER_NAMES}
    sizes = [0] * max(map(_num_planes, identities.values()))
    for name, found in by_encoder.items():
        for index in range(_num_planes(identities[name])):
            sizes[index] += _num_values(identities[name], found)
    memory = [_Memory(size) for size in sizes]
    encoders: dict[str, EncoderRows] = {
        name: _encoder_rows(identities[name], found, memory) for name, found in by_encoder.items()
    }
    encoded = np.array([row is not None for row in rows])
    return caption_batch(schema, manifest.captions, keys, captions, encoded, encoders)


class _Memory:
    """One allocation for all of a chunk's planes of one significance.

    numpy asks for huge pages for arrays of 4 MiB and more; the page faults of many smaller arrays take longer than the
    copies. Planes of different significance are kept apart because their memory is needed for different times: the
    least significant ones do not compress and stay until the part is stored, the others go once they are compressed.
    """

    def __init__(self, num_bytes: int) -> None:
        self._free = np.empty(num_bytes, np.uint8)

    def concatenate(self, planes: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
        size = sum(plane.size for plane in planes)
        out, self._free = self._free[:size], self._free[size:]
        return np.concatenate(planes, out=out) if planes else out


def _encoder_rows(
    identity: EncoderIdentity, captions: Sequence[CaptionTensors], memory: Sequence[_Memory]
) -> EncoderRows:
    def concatenated(tensors: Sequence[Planes | None]) -> Planes:
        found = [planes for planes in tensors if planes is not None]
        return [
            memory[index].concatenate([planes[index] for planes in found]) for index in range(_num_planes(identity))
        ]

    has_pooled = identity.pooled_size is not None
    return EncoderRows(
        num_tokens=np.array([caption.num_tokens for caption in captions], np.int32),
        truncated=np.array([caption.truncated for caption in captions], bool),
        hidden=concatenated([caption.hidden for caption in captions]),
        hidden_tokens=np.array([caption.stored_tokens for caption in captions], np.int64),
        pooled=concatenated([caption.pooled for caption in captions]) if has_pooled else None,
        eos=concatenated([caption.eos for caption in captions]) if has_pooled else None,
    )


def _num_planes(identity: EncoderIdentity) -> int:
    """Planes of a tensor; also bytes of a value."""
    return STORAGE_DTYPES[identity.storage_dtype].itemsize

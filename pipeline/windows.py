"""A shard's captions, a window of rows at a time, tokenized.

A window is as many rows as are read, sorted, encoded and held in memory together: some whole chunks, as many as fit a
budget of output bytes, whatever the size of the shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.group_encoder import Samples
from pipeline.tokenizers import CaptionTokenizer, TokenizedCaptions
from schemas.identity import ENCODER_NAMES, CaptionIdentity, Padding
from schemas.manifest import Manifest
from schemas.planes import STORAGE_DTYPES

_TYPICAL_TOKENS = 40
"""Tokens of a caption that a `none` dataset is sized for; real ones have 25 to 120 on average."""
_MAX_WINDOW_ROWS = 8192
_CHUNK_BYTES = 32 * 1024**2
_MAX_CHUNK_ROWS = 1024


@dataclass(frozen=True)
class Window:
    """Consecutive rows of a shard.

    Attributes:
        keys: [rows].
        captions: [rows]; None where the input was rejected.
        distinct: The different captions among them, in order of first appearance.
        tokens: Per encoder, the ids of `distinct`.
    """

    keys: Sequence[str]
    captions: Sequence[str | None]
    distinct: Sequence[str]
    tokens: Mapping[str, TokenizedCaptions]


def typical_tokens(padding: Padding, max_tokens: int) -> int:
    """Tokens stored of a caption: exact under padding `max_length`, for a typical caption under `none`."""
    return max_tokens if padding == "max_length" else min(_TYPICAL_TOKENS, max_tokens)


def typical_row_bytes(identity: CaptionIdentity) -> int:
    """Raw bytes of a caption's tensors, as far as `typical_tokens` knows."""
    total = 0
    for name in ENCODER_NAMES:
        encoder = identity.encoder(name)
        tokens = typical_tokens(encoder.padding, encoder.max_tokens)
        vectors = (encoder.pooled_size + encoder.hidden_size) if encoder.pooled_size is not None else 0
        total += (tokens * encoder.hidden_size + vectors) * STORAGE_DTYPES[encoder.storage_dtype].itemsize
    return total


def default_chunk_rows(identity: CaptionIdentity) -> int:
    """Rows of a chunk of captions, if nothing else decides."""
    return rows_of_chunk(typical_row_bytes(identity))


def rows_of_chunk(row_bytes: int) -> int:
    """The power of two that makes a chunk 16 to 32 MiB raw, between 1 and 1024 rows."""
    rows = _CHUNK_BYTES // max(1, row_bytes)
    return max(1, min(_MAX_CHUNK_ROWS, 1 << (rows.bit_length() - 1))) if rows else 1


def window_rows(manifest: Manifest, window_bytes: int) -> int:
    """Rows of a window: whole chunks, at least one."""
    chunk_rows = manifest.layout.chunk_rows
    rows = min(window_bytes // typical_row_bytes(manifest.captions), _MAX_WINDOW_ROWS)
    return max(1, rows // chunk_rows) * chunk_rows


def read_windows(
    samples: Samples, group: str, num_rows: int, tokenizers: Mapping[str, CaptionTokenizer]
) -> Iterator[Window]:
    """Reads and tokenizes a shard's captions.

    Args:
        samples: Of the shard.
        group: Which captions.
        num_rows: Rows of a window.
        tokenizers: By encoder.
    """
    for start in range(0, len(samples.keys), num_rows):
        keys = samples.keys[start : start + num_rows]
        captions = samples.captions(group, start, start + len(keys))
        distinct = list(dict.fromkeys(caption for caption in captions if caption is not None))
        yield Window(keys, captions, distinct, {name: tokenizers[name](distinct) for name in ENCODER_NAMES})

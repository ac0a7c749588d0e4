"""How many rows a chunk has: one number for all groups of a dataset, so that their chunks coincide."""

from __future__ import annotations

import math

from pipeline.caption_options import CaptionOptions
from pipeline.windows import rows_of_chunk, typical_row_bytes, typical_tokens
from schemas.errors import ConfigError, MissingObjectError
from schemas.identity import ENCODER_NAMES, CaptionIdentity, LatentIdentity
from schemas.latent_manifest import read_manifests
from schemas.limits import MAX_CHUNK_BYTES, MAX_CHUNK_ROWS, MAX_ROW_BYTES
from schemas.manifest import Layout
from schemas.planes import STORAGE_DTYPES
from schemas.storage import Store

_REAL_WIDTHS = {"clip_l": (768, 768 + 768), "clip_g": (1280, 1280 + 1280), "t5": (4096, 0)}
"""Of the real encoders: elements a token, and elements a caption besides."""


def choose_layout(
    options: CaptionOptions, dataset: Store, captions: CaptionIdentity | None, latents: LatentIdentity | None
) -> Layout:
    """The layout of the groups a run encodes: what the user says, or else what the dataset has.

    A new dataset's chunks have the most rows, a power of two, with which a chunk of no group has more than 32 MiB raw.

    Args:
        options: What the user says.
        dataset: The dataset; need not exist yet.
        captions: What captions will be, if there are any in this run.
        latents: What latents will be, if there are any in this run.

    Raises:
        DamagedDataError, ContractError: A manifest cannot be read.
        ConfigError: Chunks, or single rows, would be larger than readers accept.
    """
    chunk_rows = options.chunk_rows
    if chunk_rows is None:
        chunk_rows = _stored_chunk_rows(dataset)
    if chunk_rows is None:
        # Captions come sooner or later, and to all appearances with these options.
        sizes = [assumed_caption_bytes(options) if captions is None else typical_row_bytes(captions)]
        sizes += [] if latents is None else [latent_bytes(latents)]
        chunk_rows = rows_of_chunk(max(sizes))
    for identity in (captions, latents):
        _require_readable(chunk_rows, 1 if identity is None else identity.row_bytes)
    return Layout(container=options.container, chunk_rows=chunk_rows, part_bytes=options.part_bytes)


def _require_readable(chunk_rows: int, row_bytes: int) -> None:
    """Readers refuse what is larger: a whole chunk is in memory while it is decoded."""
    if row_bytes > MAX_ROW_BYTES:
        raise ConfigError(
            "option-out-of-range",
            where="the tensors of a row",
            expected=f"at most {MAX_ROW_BYTES:,} bytes",
            actual=f"{row_bytes:,} bytes",
            remedy="choose fewer tokens or smaller images",
        )
    most = min(MAX_CHUNK_ROWS, MAX_CHUNK_BYTES // row_bytes)
    if not 1 <= chunk_rows <= most:
        raise ConfigError(
            "option-out-of-range",
            where="--chunk-rows",
            expected=f"1 to {most:,} rows: of {row_bytes:,} bytes each, a chunk may have {MAX_CHUNK_BYTES:,}",
            actual=f"{chunk_rows:,}",
            remedy="choose fewer rows, or leave the option out",
        )


def assumed_tokens(options: CaptionOptions) -> dict[str, int]:
    """Tokens that each encoder computes for a typical caption."""
    limits = {name: getattr(options, name).max_tokens for name in ENCODER_NAMES}
    return {name: typical_tokens(options.padding, limit) for name, limit in limits.items()}


def assumed_caption_bytes(options: CaptionOptions) -> int:
    """Raw bytes of a typical caption's tensors, if the encoders are as wide as the real ones."""
    tokens = assumed_tokens(options)
    elements = sum(tokens[name] * width + vectors for name, (width, vectors) in _REAL_WIDTHS.items())
    return elements * STORAGE_DTYPES[options.storage_dtype].itemsize


def latent_bytes(identity: LatentIdentity) -> int:
    """Raw bytes of the largest image's latents."""
    itemsize = STORAGE_DTYPES[identity.storage_dtype].itemsize
    return max(math.prod(identity.latent_shape(*bucket)) for bucket in identity.buckets) * itemsize


def _stored_chunk_rows(dataset: Store) -> int | None:
    try:
        return read_manifests(dataset).layout.chunk_rows
    except MissingObjectError:
        return None

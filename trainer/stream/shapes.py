"""Chunks are held to their dataset's identity before any row of them is used.

A checksum only tells that the bytes are those that were written; a writer with a fault could have written anything.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.errors import ContractError
from schemas.identity import ENCODER_NAMES, CaptionIdentity, LatentIdentity
from trainer.stream.decode import CaptionChunk, LatentChunk, PlaneColumn


def require_caption_shapes(chunk: CaptionChunk, identity: CaptionIdentity, *, where: str) -> None:
    """Checks the elements of every stored tensor.

    Raises:
        ContractError: Code `chunk-shapes`.
    """
    for name in ENCODER_NAMES:
        encoder = identity.encoder(name)
        sizes = _sizes(chunk.hidden[name], chunk.valid, f"{where}, {name}.hidden")
        tokens, rest = np.divmod(sizes, encoder.hidden_size)
        fits = (tokens == encoder.max_tokens) if encoder.padding == "max_length" else (tokens <= encoder.max_tokens)
        bound = "" if encoder.padding == "max_length" else "at most "
        expected = f"{bound}{encoder.max_tokens} tokens of {encoder.hidden_size}"
        _require(bool((fits & (rest == 0) & (tokens > 0)).all()), f"{where}, {name}.hidden", expected, sizes)
        if encoder.pooled_size is not None:
            sizes = _sizes(chunk.pooled[name], chunk.valid, f"{where}, {name}.pooled")
            fits = sizes == encoder.pooled_size
            _require(bool(fits.all()), f"{where}, {name}.pooled", f"{encoder.pooled_size} elements", sizes)


def require_latent_shapes(chunk: LatentChunk, identity: LatentIdentity, *, where: str) -> None:
    """Checks the elements of every stored image against its size.

    Raises:
        ContractError: Code `chunk-shapes`.
    """
    sizes = _sizes(chunk.latents, chunk.valid, f"{where}, latents")
    pixels = chunk.sizes[chunk.valid].astype(np.int64)
    cells = (pixels // identity.downscale_factor).prod(axis=1)
    fits = (
        (sizes == identity.num_channels * cells) & (pixels % identity.downscale_factor == 0).all(axis=1) & (sizes > 0)
    )
    expected = f"{identity.num_channels} x height / {identity.downscale_factor} x width / {identity.downscale_factor}"
    _require(bool(fits.all()), f"{where}, latents", expected, sizes)


def _sizes(column: PlaneColumn, valid: npt.NDArray[np.bool_], where: str) -> npt.NDArray[np.int64]:
    aligned = all(np.array_equal(column.offsets[0], other) for other in column.offsets[1:])
    sizes = np.diff(column.offsets[0])
    _require(aligned, where, "planes of the same lengths", sizes)
    return sizes[valid]


def _require(holds: bool, where: str, expected: str, sizes: npt.NDArray[np.int64]) -> None:
    if not holds:
        raise ContractError(
            "chunk-shapes",
            where=where,
            expected=expected,
            actual=f"elements of the rows: {', '.join(map(str, sizes[:8].tolist()))}{' ...' if len(sizes) > 8 else ''}",
            remedy="see `python -m schemas validate --level values`; delete the shard's ledger record, encode it again",
        )

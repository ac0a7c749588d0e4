"""A made-up dataset for the training step's benchmark: captions of a size's encoders, and latents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.training_step_sizes import NUM_TOKENS, Size, caption_identity, latent_identity
from schemas.arrow_schema import EncoderRows, caption_batch, caption_schema
from schemas.commit import commit, prepare_rejects, store_parts
from schemas.identity import ENCODER_NAMES
from schemas.index import write_index
from schemas.latent_manifest import LATENTS_GROUP, LatentManifest, create_latents_or_require_same
from schemas.latent_schema import LatentRows, latent_batch, latent_schema
from schemas.ledger import EncoderStats, LatentStats, LedgerRecord, Part, Source, Writer, keys_sha256
from schemas.manifest import FORMAT_VERSION, Layout, Manifest, Provenance, create_or_require_same
from schemas.storage import Store

_SHARD = "00000"
_CREATED = Provenance(run_id="benchmark", time="2026-01-01T00:00:00+00:00", versions={})

Values = npt.NDArray[np.generic]


def write_dataset(folder: Path, size: Size, resolution: int, num_samples: int) -> None:
    """Writes one shard of captions and latents with the pipeline's own writer; the values are normal.

    Args:
        folder: Where to.
        size: Of the encoders.
        resolution: Of the pictures, px.
        num_samples: Rows.
    """
    identity = caption_identity(size)
    row_bytes = 2 * NUM_TOKENS * sum(encoder.width for encoder in size.encoders.values())
    layout = Layout(container="arrow", chunk_rows=_power_of_two(32 * 1024**2 // row_bytes), part_bytes=256 * 1024**2)
    captions = Manifest(layout=layout, captions=identity, created=_CREATED)
    latents = LatentManifest(layout=layout, latents=latent_identity(resolution), created=_CREATED)
    store = Store(str(folder))
    create_or_require_same(store, captions)
    create_latents_or_require_same(store, latents)
    keys = [f"{index:08d}" for index in range(num_samples)]
    schema = caption_schema(captions, "txt", _SHARD)
    _commit(store, "txt", captions, keys, store_parts(store, _captions(captions, keys), schema, "txt", _SHARD, layout))
    schema = latent_schema(latents, _SHARD)
    parts = store_parts(store, _latents(latents, keys), schema, LATENTS_GROUP, _SHARD, layout)
    _commit(store, LATENTS_GROUP, latents, keys, parts)
    write_index(store, captions.identity_sha256)


def _captions(manifest: Manifest, keys: list[str]) -> Iterator[pa.RecordBatch]:
    schema, random = caption_schema(manifest, "txt", _SHARD), np.random.default_rng(0)
    for rows in _chunks(keys, manifest.layout.chunk_rows):
        encoders = {name: _encoder_rows(manifest, name, len(rows), random) for name in ENCODER_NAMES}
        texts = [f"a caption of {key}" for key in rows]
        yield caption_batch(schema, manifest.captions, rows, texts, np.ones(len(rows), bool), encoders)


def _encoder_rows(manifest: Manifest, name: str, num_rows: int, random: np.random.Generator) -> EncoderRows:
    width = manifest.captions.encoder(name).hidden_size
    vectors = (num_rows, width) if manifest.captions.encoder(name).pooled_size is not None else None
    return EncoderRows(
        num_tokens=np.full(num_rows, NUM_TOKENS, np.int32),
        truncated=np.zeros(num_rows, bool),
        hidden=_normals(random, (num_rows * NUM_TOKENS, width)),
        hidden_tokens=np.full(num_rows, NUM_TOKENS, np.int64),
        pooled=None if vectors is None else _normals(random, vectors),
        eos=None if vectors is None else _normals(random, vectors),
    )


def _latents(manifest: LatentManifest, keys: list[str]) -> Iterator[pa.RecordBatch]:
    schema, random, side = latent_schema(manifest, _SHARD), np.random.default_rng(1), manifest.latents.resolution
    shape = manifest.latents.latent_shape(side, side)
    for rows in _chunks(keys, manifest.layout.chunk_rows):
        sizes = np.full((len(rows), 2), side, np.int32)
        latents = [_normals(random, shape) for _ in rows]
        columns = LatentRows(original_size=sizes, crop=np.zeros_like(sizes), size=sizes, latents=latents)
        yield latent_batch(schema, manifest.latents, rows, np.ones(len(rows), bool), columns)


def _commit(
    store: Store, group: str, manifest: Manifest | LatentManifest, keys: list[str], parts: tuple[Part, ...]
) -> None:
    rejects = prepare_rejects([])
    stats: dict[str, EncoderStats | LatentStats] = {
        name: EncoderStats(num_tokens=0, num_truncated=0, raw_bytes=1) for name in ENCODER_NAMES
    }
    if isinstance(manifest, LatentManifest):
        stats = {LATENTS_GROUP: LatentStats(num_images={}, raw_bytes=1)}
    record = LedgerRecord(
        format_version=FORMAT_VERSION,
        group=group,
        shard=_SHARD,
        identity_sha256=manifest.identity_sha256,
        keys_sha256=keys_sha256(keys),
        num_inputs=len(keys),
        num_rows=len(keys),
        num_encoded=len(keys),
        num_rejects=0,
        source=Source(url="memory", num_bytes=1, e_tag=None, damage=()),
        parts=parts,
        rejects=rejects.entry,
        stats=stats,
        writer=Writer(run_id="benchmark", attempt=1, host="benchmark", device="cpu", seconds=0.0, versions={}),
    )
    assert commit(store, record, rejects)


def _normals(random: np.random.Generator, shape: tuple[int, ...]) -> Values:
    return random.standard_normal(shape, dtype=np.float32).astype(ml_dtypes.bfloat16)


def _chunks(keys: list[str], num_rows: int) -> Iterator[list[str]]:
    return (keys[start : start + num_rows] for start in range(0, len(keys), num_rows))


def _power_of_two(limit: int) -> int:
    return max(1, min(128, 1 << (limit.bit_length() - 1)))

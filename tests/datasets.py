"""Small datasets of made-up tensors for tests: the real writer and commit, no encoders, no images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.arrow_schema import EncoderRows, caption_batch, caption_schema
from schemas.commit import commit, prepare_rejects, store_parts
from schemas.identity import ENCODER_NAMES, CaptionIdentity, EncoderIdentity, Padding, StorageDtype
from schemas.index import write_index
from schemas.latent_manifest import LATENTS_GROUP, LatentManifest, create_latents_or_require_same
from schemas.latent_schema import latent_schema
from schemas.ledger import EncoderStats, LatentStats, LedgerRecord, Source, Writer, keys_sha256
from schemas.manifest import FORMAT_VERSION, Container, Layout, Manifest, Provenance, create_or_require_same
from schemas.planes import STORAGE_DTYPES
from schemas.rejects import Reject
from schemas.storage import Store
from tests.latent_datasets import BUCKETS as BUCKETS
from tests.latent_datasets import Picture, latent_batches, latent_stats, pictures
from tests.latent_datasets import latents as latents
from tests.latent_datasets import make_latent_manifest as make_latent_manifest

SIZES = {"clip_l": (24, 24), "clip_g": (40, 40), "t5": (64, None)}
MAX_TOKENS = 12


def make_identity(padding: Padding = "max_length", storage_dtype: StorageDtype = "bfloat16") -> CaptionIdentity:
    """Three encoders of small, odd sizes."""
    return CaptionIdentity(
        **{
            name: EncoderIdentity(
                name=name,
                source=f"test/{name}",
                revision=None,
                weights_sha256=hashlib.sha256(name.encode()).hexdigest(),
                tokenizer="transformers",
                tokenizer_sha256=hashlib.sha256(b"tokenizer").hexdigest(),
                exclamation_as_pad=False,
                architecture={"layers": 2, "width": SIZES[name][0]},
                hidden_layer="penultimate, no final norm" if name != "t5" else "final norm",
                hidden_size=SIZES[name][0],
                pooled_size=SIZES[name][1],
                max_tokens=MAX_TOKENS,
                pad_token_id=0,
                eos_token_id=1,
                padding=padding,
                attention_mask=padding == "none",
                compute_dtype="float32",
                storage_dtype=storage_dtype,
            )
            for name in ENCODER_NAMES
        }
    )


def make_manifest(
    container: Container = "arrow",
    padding: Padding = "max_length",
    storage_dtype: StorageDtype = "bfloat16",
    chunk_rows: int = 4,
    part_bytes: int = 20_000,
) -> Manifest:
    """A manifest with several chunks a part and several parts a shard."""
    return Manifest(
        layout=Layout(container=container, chunk_rows=chunk_rows, part_bytes=part_bytes),
        captions=make_identity(padding, storage_dtype),
        created=Provenance(run_id="test", time="2026-01-01T00:00:00+00:00", versions={}),
    )


@dataclass(frozen=True)
class Sample:
    """One row to write; no caption makes a null row."""

    key: str
    caption: str | None


def samples(count: int, *, missing: Sequence[int] = (), prefix: str = "") -> list[Sample]:
    """`count` samples, those at `missing` without a caption."""
    return [Sample(f"{prefix}{i:05d}", None if i in missing else f"a picture of {i} things") for i in range(count)]


def tensors(identity: EncoderIdentity, sample: Sample) -> tuple[int, dict[str, npt.NDArray[np.generic]]]:
    """The number of tokens and the made-up tensors of a sample, the same whenever asked."""
    seed = hashlib.sha256(f"{identity.name}/{sample.key}/{sample.caption}".encode()).digest()[:8]
    random = np.random.default_rng(int.from_bytes(seed, "little"))
    num_tokens = int(random.integers(2, identity.max_tokens + 1))
    stored = identity.max_tokens if identity.padding == "max_length" else num_tokens
    dtype = STORAGE_DTYPES[identity.storage_dtype]
    made = {"hidden": random.standard_normal((stored, identity.hidden_size)).astype(dtype)}
    if identity.pooled_size is not None:
        made["pooled"] = random.standard_normal(identity.pooled_size).astype(dtype)
        made["eos"] = random.standard_normal(identity.hidden_size).astype(dtype)
    return num_tokens, made


def encoder_rows(identity: EncoderIdentity, rows: Sequence[Sample]) -> EncoderRows:
    """The columns of the encoded rows of a chunk."""
    made = [tensors(identity, row) for row in rows if row.caption is not None]
    dtype = STORAGE_DTYPES[identity.storage_dtype]

    def stack(name: str, width: int) -> npt.NDArray[np.generic]:
        return np.concatenate([m[name].reshape(-1, width) for _, m in made] or [np.zeros((0, width), dtype)])

    pooled = identity.pooled_size
    return EncoderRows(
        num_tokens=np.array([n for n, _ in made], np.int32),
        truncated=np.array([n == identity.max_tokens for n, _ in made], bool),
        hidden=stack("hidden", identity.hidden_size),
        hidden_tokens=np.array([len(m["hidden"]) for _, m in made], np.int64),
        pooled=None if pooled is None else stack("pooled", pooled),
        eos=None if pooled is None else stack("eos", identity.hidden_size),
    )


def write_shard(store: Store, manifest: Manifest, group: str, shard: str, rows: Sequence[Sample]) -> LedgerRecord:
    """Writes and commits one shard of one group."""
    schema = caption_schema(manifest, group, shard)
    step = manifest.layout.chunk_rows
    batches = []
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        encoders = {name: encoder_rows(manifest.captions.encoder(name), chunk) for name in ENCODER_NAMES}
        encoded = np.array([row.caption is not None for row in chunk])
        keys, captions = [row.key for row in chunk], [row.caption for row in chunk]
        batches.append(caption_batch(schema, manifest.captions, keys, captions, encoded, encoders))
    missing = [row for row in rows if row.caption is None]
    rejects = [Reject(key=row.key, code="caption-missing", reason="no caption") for row in missing]
    stats = {name: _stats(manifest.captions.encoder(name), rows) for name in ENCODER_NAMES}
    return _commit(store, manifest, schema, batches, [row.key for row in rows], rejects, stats)


def _commit(
    store: Store,
    manifest: Manifest | LatentManifest,
    schema: pa.Schema,
    batches: Sequence[pa.RecordBatch],
    keys: Sequence[str],
    rejects: Sequence[Reject],
    stats: Mapping[str, EncoderStats | LatentStats],
) -> LedgerRecord:
    """Stores parts and rejects and commits them; every reject has a null row."""
    group, shard = (schema.metadata[b"encode_once." + name].decode() for name in (b"group", b"shard"))
    prepared = prepare_rejects(rejects)
    record = LedgerRecord(
        format_version=FORMAT_VERSION,
        group=group,
        shard=shard,
        identity_sha256=manifest.identity_sha256,
        keys_sha256=keys_sha256(keys),
        num_inputs=len(keys),
        num_rows=len(keys),
        num_encoded=len(keys) - len(rejects),
        num_rejects=len(rejects),
        source=Source(url=f"memory/{shard}.tar", num_bytes=1, e_tag=None, damage=()),
        parts=store_parts(store, batches, schema, group, shard, manifest.layout),
        rejects=prepared.entry,
        stats=stats,
        writer=Writer(run_id="test", attempt=1, host="test", device="cpu", seconds=0.0, versions={}),
    )
    assert commit(store, record, prepared)
    return record


def _stats(identity: EncoderIdentity, rows: Sequence[Sample]) -> EncoderStats:
    columns = encoder_rows(identity, rows)
    arrays = [columns.hidden, columns.pooled, columns.eos]
    return EncoderStats(
        num_tokens=int(columns.num_tokens.sum()),
        num_truncated=int(columns.truncated.sum()),
        raw_bytes=sum(array.nbytes for array in arrays if array is not None),
    )


def write_latent_shard(store: Store, manifest: LatentManifest, shard: str, rows: Sequence[Picture]) -> LedgerRecord:
    """Writes and commits one shard of the group `latents`."""
    batches = list(latent_batches(manifest, shard, rows))
    missing = [row for row in rows if row.size is None]
    rejects = [Reject(key=row.key, code="image-undecodable", reason="no image") for row in missing]
    stats = {LATENTS_GROUP: latent_stats(manifest.latents, rows)}
    return _commit(store, manifest, latent_schema(manifest, shard), batches, [row.key for row in rows], rejects, stats)


def write_dataset(
    url: str,
    manifest: Manifest | None,
    groups: Mapping[str, Mapping[str, Sequence[Sample]]],
    latents: LatentManifest | None = None,
    images: Mapping[str, Sequence[Picture]] | None = None,
) -> Store:
    """Writes a whole dataset.

    Args:
        url: Folder or bucket.
        manifest: Of the captions; None for latents alone.
        groups: `groups[group][shard]` are the rows.
        latents: Manifest of the latents; None for captions alone.
        images: `images[shard]` are the rows of the latents; by default one of every key of the first group, none null.
    """
    store = Store(url)
    if manifest is not None:
        create_or_require_same(store, manifest)
    for group, shards in groups.items():
        assert manifest is not None
        for shard, rows in shards.items():
            write_shard(store, manifest, group, shard, rows)
    if latents is not None:
        create_latents_or_require_same(store, latents)
        if images is None:
            first = next(iter(groups.values()))
            images = {shard: pictures(latents, [row.key for row in rows]) for shard, rows in first.items()}
        for shard, images_of_shard in images.items():
            write_latent_shard(store, latents, shard, images_of_shard)
    identities = [None if document is None else document.identity_sha256 for document in (manifest, latents)]
    write_index(store, *identities)
    return store

"""Made-up image latents for tests: no autoencoder, no images. `tests.datasets` writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.identity import LatentIdentity, LatentKind, LatentStorageDtype
from schemas.latent_manifest import LatentManifest
from schemas.latent_schema import LatentRows, latent_batch, latent_schema
from schemas.ledger import LatentStats
from schemas.manifest import Container, Layout, Provenance
from schemas.planes import STORAGE_DTYPES

BUCKETS = ((32, 32), (16, 48), (48, 16))
"""Heights and widths, px: so small that a dataset of them is quickly made."""


def make_latent_manifest(
    container: Container = "arrow",
    kind: LatentKind = "autoencoder_kl",
    storage_dtype: LatentStorageDtype | None = None,
    chunk_rows: int = 4,
    part_bytes: int = 20_000,
    buckets: tuple[tuple[int, int], ...] = BUCKETS,
) -> LatentManifest:
    """A manifest of latents with the layout of `make_manifest`; one bucket makes a center crop."""
    pixels = kind == "pixels"
    identity = LatentIdentity(
        kind=kind,
        source="pixels" if pixels else "test/vae",
        revision=None,
        weights_sha256=None if pixels else hashlib.sha256(b"vae").hexdigest(),
        architecture={} if pixels else {"latent_channels": 16, "block_out_channels": [8, 8, 8, 8]},
        num_channels=3 if pixels else 16,
        downscale_factor=1 if pixels else 8,
        shift_factor=0.0 if pixels else 0.0609,
        scaling_factor=1.0 if pixels else 1.5305,
        posterior=None if pixels else "mode",
        resolution=32,
        crop="buckets" if len(buckets) > 1 else "center",
        buckets=buckets,
        resample="lanczos",
        compute_dtype="float32",
        storage_dtype=storage_dtype or ("uint8" if pixels else "bfloat16"),
    )
    return LatentManifest(
        layout=Layout(container=container, chunk_rows=chunk_rows, part_bytes=part_bytes),
        latents=identity,
        created=Provenance(run_id="test", time="2026-01-01T00:00:00+00:00", versions={}),
    )


@dataclass(frozen=True)
class Picture:
    """One row of the group `latents` to write; no size makes a null row."""

    key: str
    size: tuple[int, int] | None


def pictures(
    manifest: LatentManifest, keys: Sequence[str], *, missing: Sequence[int] = (), only: tuple[int, int] | None = None
) -> list[Picture]:
    """Pictures of these keys, those at `missing` rejected, each in a bucket chosen by its key, or all in `only`."""
    buckets = manifest.latents.buckets
    chosen = [only or buckets[hashlib.sha256(key.encode()).digest()[0] % len(buckets)] for key in keys]
    return [Picture(key, None if i in missing else chosen[i]) for i, key in enumerate(keys)]


def latents(identity: LatentIdentity, picture: Picture) -> npt.NDArray[np.generic]:
    """The made-up tensor [C, h, w] of a picture, the same whenever asked."""
    assert picture.size is not None
    seed = int.from_bytes(hashlib.sha256(f"image/{picture.key}".encode()).digest()[:8], "little")
    random, shape = np.random.default_rng(seed), identity.latent_shape(*picture.size)
    if identity.storage_dtype == "uint8":
        return random.integers(0, 256, shape, np.uint8)
    return random.standard_normal(shape).astype(STORAGE_DTYPES[identity.storage_dtype])


def latent_rows(identity: LatentIdentity, rows: Sequence[Picture]) -> LatentRows:
    """The columns of the encoded rows of a chunk: images of twice the bucket's width, cropped in the middle."""
    sizes = np.array([row.size for row in rows if row.size is not None], np.int32).reshape(-1, 2)
    return LatentRows(
        original_size=sizes * np.array([1, 2], np.int32),
        crop=np.stack([np.zeros(len(sizes), np.int32), sizes[:, 1] // 2], axis=1),
        size=sizes,
        latents=[latents(identity, row) for row in rows if row.size is not None],
    )


def latent_batches(manifest: LatentManifest, shard: str, rows: Sequence[Picture]) -> Iterator[pa.RecordBatch]:
    """The chunks of a shard."""
    schema, identity, step = latent_schema(manifest, shard), manifest.latents, manifest.layout.chunk_rows
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        encoded = np.array([row.size is not None for row in chunk])
        yield latent_batch(schema, identity, [row.key for row in chunk], encoded, latent_rows(identity, chunk))


def latent_stats(identity: LatentIdentity, rows: Sequence[Picture]) -> LatentStats:
    """What a record of these rows says of them."""
    names = [f"{row.size[0]}x{row.size[1]}" for row in rows if row.size is not None]
    raw_bytes = sum(latents(identity, row).nbytes for row in rows if row.size is not None)
    return LatentStats(num_images={name: names.count(name) for name in names}, raw_bytes=raw_bytes)

"""The small dataset that every damage of `tests/golden/damage` is done to, and the tools to damage it convincingly.

A convincing lie has right checksums: record, part names and index are made again over the damaged content, so that only
the check for the damage itself can find it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.commit import store_parts
from schemas.dataset import open_dataset
from schemas.documents import seal
from schemas.group_schema import schema_of
from schemas.identity import CaptionIdentity
from schemas.index import write_index
from schemas.latent_manifest import LATENTS_GROUP, LatentManifest
from schemas.ledger import Chunk, LedgerRecord, Part, keys_sha256, part_path, read_record, record_path, rejects_path
from schemas.manifest import CONTAINER_SUFFIX, Container, Layout, Manifest
from schemas.parts import chunk_checksum
from schemas.rejects import Reject, dump_rejects
from schemas.storage import Store
from tests.datasets import Sample, make_latent_manifest, make_manifest, pictures, samples, write_dataset

ROWS: dict[str, Sequence[Sample]] = {
    "a/0000": samples(5, missing=[3], prefix="a"),
    "b": samples(3, prefix="b"),
    "empty": [],
}
GROUPS: dict[str, dict[str, Sequence[Sample]]] = {"json.x": ROWS, "txt": ROWS}


def golden_manifest(container: Container) -> Manifest:
    """Tiny encoders, two rows a chunk, two chunks a part at most."""
    manifest = make_manifest(container)
    encoders = {
        name: manifest.captions.encoder(name).model_copy(update={"hidden_size": size, "pooled_size": pooled} | _LIMIT)
        for name, size, pooled in (("clip_l", 4, 4), ("clip_g", 6, 6), ("t5", 8, None))
    }
    layout = Layout(container=container, chunk_rows=2, part_bytes=PART_BYTES[container])
    return manifest.model_copy(update={"captions": CaptionIdentity(**encoders), "layout": layout})


def golden_latents(container: Container) -> LatentManifest:
    """Four channels, two sizes of 2 x 2 and 1 x 3 values."""
    manifest = make_latent_manifest(container, buckets=((16, 16), (8, 24)))
    identity = manifest.latents.model_copy(update={"num_channels": 4})
    return manifest.model_copy(update={"latents": identity, "layout": golden_manifest(container).layout})


_LIMIT = {"max_tokens": 4}
PART_BYTES: dict[Container, int] = {"arrow": 7_000, "webdataset": 17_000}


def write_golden(folder: Path, container: Container) -> None:
    """Writes the undamaged dataset."""
    write_dataset(str(folder), golden_manifest(container), GROUPS)


def write_golden_latents(folder: Path, container: Container) -> None:
    """Writes the undamaged dataset with latents: one caption group, and an image missing where a caption is there."""
    latents = golden_latents(container)
    images = {
        shard: pictures(latents, [row.key for row in rows], missing=[1] if shard == "a/0000" else [])
        for shard, rows in ROWS.items()
    }
    write_dataset(str(folder), golden_manifest(container), {"txt": ROWS}, latents, images)


Batches = list[pa.RecordBatch]


@dataclass
class Victim:
    """A copy of the dataset, to be damaged."""

    folder: Path
    manifest: Manifest
    latents: LatentManifest | None = None

    @property
    def store(self) -> Store:
        return Store(str(self.folder))

    @property
    def is_arrow(self) -> bool:
        return self.manifest.layout.container == "arrow"

    def manifest_of(self, group: str) -> Manifest | LatentManifest:
        if group != LATENTS_GROUP:
            return self.manifest
        assert self.latents is not None
        return self.latents

    def record(self, group: str = "txt", shard: str = "a/0000") -> LedgerRecord:
        found = read_record(self.store, group, shard)
        assert found is not None
        return found

    def part(self, group: str = "txt", shard: str = "a/0000", index: int = 0) -> Path:
        """The file of a part."""
        return self.folder / part_path(shard, self.record(group, shard).parts[index].name)

    def flip(self, path: Path | str, offset: int, bit: int = 0) -> None:
        """Flips one bit of a file; a negative offset counts from its end."""
        file = self.folder / path
        data = bytearray(file.read_bytes())
        data[offset] ^= 1 << bit
        file.write_bytes(data)

    def reseal(self, group: str = "txt", shard: str = "a/0000", *, reindex: bool = True, **changes: Any) -> None:
        """Writes a record with other fields and a right digest, and the index after it."""
        body = self.record(group, shard).model_dump(mode="json") | changes
        self.store.replace(record_path(group, shard), seal(body))
        if reindex:
            self.reindex()

    def reindex(self) -> None:
        latents = None if self.latents is None else self.latents.identity_sha256
        write_index(self.store, self.manifest.identity_sha256, latents)

    def reseal_part(self, data: bytes, *, chunk: int | None = None, **place: Any) -> None:
        """Replaces the bytes of the first part, with right checksums; sizes stay as they are."""
        record = self.record(**place)
        path = self.part(**place)
        old = record.parts[0]
        assert len(data) == old.num_bytes
        chunks = tuple(
            Chunk(**(c.model_dump() | {"xxh3_64": chunk_checksum(data[c.offset : c.offset + c.num_bytes])}))
            for c in old.chunks
        )
        part = self.sealed_part(record.group, 0, data, chunks)
        path.unlink()
        path.with_name(part.name).write_bytes(data)
        self.reseal(**place, parts=[part.model_dump(), *(p.model_dump() for p in record.parts[1:])])

    def sealed_part(self, group: str, index: int, data: bytes, chunks: tuple[Chunk, ...]) -> Part:
        sha256 = hashlib.sha256(data).hexdigest()
        name = f"{group}-{index:05d}-{sha256[:16]}{CONTAINER_SUFFIX[self.manifest.layout.container]}"
        return Part(name=name, num_bytes=len(data), sha256=sha256, chunks=chunks)

    def batches(self, group: str = "txt", shard: str = "a/0000") -> Batches:
        dataset = open_dataset(str(self.folder), source="ledger")
        count = len(list(dataset.record(group, shard).chunks()))
        return [dataset.read_chunk(group, shard, index) for index in range(count)]

    def rewrite(
        self,
        change: Callable[[Batches], Batches],
        *,
        group: str = "txt",
        shard: str = "a/0000",
        schema: pa.Schema | None = None,
        **changes: Any,
    ) -> None:
        """Writes a shard's rows anew, changed, with right checksums and keys digest."""
        batches = change(self.batches(group, shard))
        for part in self.record(group, shard).parts:
            (self.folder / part_path(shard, part.name)).unlink()
        schema = schema or schema_of(self.manifest_of(group), group, shard)
        parts = store_parts(self.store, batches, schema, group, shard, self.manifest.layout)
        keys = [str(key) for batch in batches for key in batch.column("key").to_pylist()]
        facts: dict[str, Any] = {"parts": [part.model_dump() for part in parts], "keys_sha256": keys_sha256(keys)}
        self.reseal(group, shard, **(facts | {"num_rows": len(keys)} | changes))

    def write_rejects(self, rejects: Sequence[Reject], group: str = "txt", shard: str = "a/0000") -> dict[str, Any]:
        """Replaces the rejects file; returns the record's entry for it."""
        data = dump_rejects(rejects)
        self.store.replace(rejects_path(group, shard), data)
        return {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

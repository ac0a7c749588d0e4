"""What of a dataset is in the stream: its chunks, each with the samples of one run of rows in all wanted groups.

A dataset may have ten million chunks, so they are rows of arrays; the ledger's details of a chunk are looked up when it
is read, and not kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from schemas.dataset import Dataset
from schemas.errors import ConfigError, ContractError
from schemas.latent_manifest import LATENTS_GROUP
from schemas.ledger import Chunk, Part, record_path, valid_record
from schemas.limits import MAX_CHUNK_BYTES, MAX_CHUNK_ROWS
from trainer.counter_hash import words


@dataclass(frozen=True)
class ChunkRef:
    """One chunk of one group, as the ledger has it.

    Attributes:
        group: Column group.
        shard: Shard.
        part: The file it is in.
        chunk: Its place there and its checksum.
        index: Its number in the shard.
    """

    group: str
    shard: str
    part: Part
    chunk: Chunk
    index: int


class Catalog:
    """The chunks of one dataset.

    Args:
        dataset: As opened.
        captions: Caption groups, all of which every chunk has.
        latents: Whether chunks have images too.
        allow_incomplete: Leave out shards that lack a group instead of refusing them.
        holdout_rows: Rows to keep apart: whole chunks, those with the smallest hash of seed, shard and number.
        holdout: Whether this is the catalog of the rows kept apart, or of the others.
        seed: Of the choice of chunks to keep apart.

    Raises:
        ContractError: A group is not there, shards lack a group, or groups are not aligned.
        ConfigError: Nothing is left to train on.
    """

    def __init__(
        self,
        dataset: Dataset,
        captions: Sequence[str],
        *,
        latents: bool,
        allow_incomplete: bool = False,
        holdout_rows: int = 0,
        holdout: bool = False,
        seed: int = 0,
    ) -> None:
        self._dataset = dataset
        self._captions = tuple(captions)
        self._latents = latents
        groups = (*self._captions, LATENTS_GROUP) if latents else self._captions
        self.shards = _complete_shards(dataset, groups, allow_incomplete=allow_incomplete)
        """Shards that have all groups, by name."""
        self.num_left_out = len({shard for group in groups for shard in dataset.shards(group)}) - len(self.shards)
        """Shards that lack one, under `allow_incomplete`."""
        hasher = hashlib.sha256(repr((groups, holdout_rows, holdout, seed)).encode())
        columns = [_shard_chunks(dataset, groups, shard, hasher) for shard in self.shards]
        counts = [len(rows) for rows, _ in columns]
        shard_of = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        index_of = np.concatenate([np.arange(count, dtype=np.int32) for count in counts] or [np.empty(0, np.int32)])
        rows = np.concatenate([rows for rows, _ in columns] or [np.empty(0, np.int64)])
        num_bytes = np.concatenate([sizes for _, sizes in columns] or [np.empty(0, np.int64)])
        chosen = self._chosen(shard_of, index_of, rows, holdout_rows, holdout=holdout, seed=seed)
        self._shard_of, self._index_of = shard_of[chosen], index_of[chosen]
        self.rows_per_chunk: npt.NDArray[np.int64] = rows[chosen]
        self.num_bytes: npt.NDArray[np.int64] = num_bytes[chosen]
        """int64 [chunks], stored bytes to be read for each: its images and the largest of its captions."""
        self.num_rows = int(self.rows_per_chunk.sum())
        self.fingerprint = hasher.hexdigest()
        """Of all that decides which samples there are and how they lie."""
        if not len(self.rows_per_chunk):
            raise _nothing_left(dataset, rows, holdout_rows, holdout=holdout)

    def refs(self, chunk: int, field: int) -> tuple[ChunkRef, ...]:
        """What to read for a chunk: the captions of one group and, if the stream has images, the latents.

        Args:
            chunk: Number of the chunk in this catalog.
            field: Number of the caption group.

        """
        shard, index = self.shards[self._shard_of[chunk]], int(self._index_of[chunk])
        groups = (self._captions[field], LATENTS_GROUP) if self._latents else (self._captions[field],)
        found = []
        for group in groups:
            with valid_record(self._dataset.store.locate(record_path(group, shard))):
                part, entry = _part_and_chunk(self._dataset.record_body(group, shard), index)
            found.append(ChunkRef(group, shard, part, entry, index))
        return tuple(found)

    def _chosen(
        self,
        shard_of: npt.NDArray[np.int32],
        index_of: npt.NDArray[np.int32],
        rows: npt.NDArray[np.int64],
        holdout_rows: int,
        *,
        holdout: bool,
        seed: int,
    ) -> npt.NDArray[np.bool_]:
        """Which chunks are in this catalog."""
        apart = np.zeros(len(rows), bool)
        if holdout_rows:
            names = np.array([xxhash.xxh3_64_intdigest(shard.encode()) >> 1 for shard in self.shards], np.int64)
            by_hash = np.argsort(words(seed, names[shard_of], index_of.astype(np.int64)), kind="stable")
            before = np.cumsum(rows[by_hash]) - rows[by_hash]
            apart[by_hash[before < holdout_rows]] = True
        return apart if holdout else ~apart


def _complete_shards(dataset: Dataset, groups: Sequence[str], *, allow_incomplete: bool) -> tuple[str, ...]:
    there = {group: set(dataset.shards(group)) for group in groups}
    every = set().union(*there.values())
    complete = set.intersection(*there.values())
    if complete == every or allow_incomplete:
        return tuple(sorted(complete))
    missing = [f"{len(every - found)} lack {group!r}" for group, found in there.items() if found != every]
    examples = ", ".join(sorted(every - complete)[:3])
    raise ContractError(
        "shards-incomplete",
        where=dataset.store.url,
        expected=f"the groups {', '.join(map(repr, groups))} in all of {len(every)} shards",
        actual=f"{', '.join(missing)} (such as {examples})",
        remedy="run the encode command for the missing group, or leave these shards out with --stream.allow-incomplete",
    )


def _shard_chunks(
    dataset: Dataset, groups: Sequence[str], shard: str, hasher: hashlib._Hash
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and stored bytes of a shard's chunks; takes the shard into the fingerprint."""
    bodies = {group: dataset.record_body(group, shard) for group in groups}
    tables = {}
    for group, body in bodies.items():
        with valid_record(dataset.store.locate(record_path(group, shard))):
            tables[group] = _chunk_table(body)
    first = groups[0]
    for group in groups[1:]:
        keys = bodies[group].get("keys_sha256") == bodies[first].get("keys_sha256")
        if not keys or not np.array_equal(tables[group][0], tables[first][0]):
            raise ContractError(
                "groups-misaligned",
                where=dataset.store.locate(record_path(group, shard)),
                expected=f"the keys and chunks of group {first!r}, so that rows are the same samples",
                actual="other keys" if not keys else "other chunks",
                remedy="the tar changed between two runs: delete the shard's ledger records and encode it again",
            )
    rows = tables[first][0]
    identities = [bodies[group]["identity_sha256"] for group in groups]
    hasher.update(repr((shard, bodies[first].get("keys_sha256"), identities, rows.tolist())).encode())
    captions = [tables[group][1] for group in groups if group != LATENTS_GROUP]
    sizes = captions[0] if captions else np.zeros(len(rows), np.int64)
    for other in captions[1:]:
        sizes = np.maximum(sizes, other)
    return rows, sizes + (tables[LATENTS_GROUP][1] if LATENTS_GROUP in tables else 0)


def _chunk_table(body: dict[str, Any]) -> npt.NDArray[np.int64]:
    """int64 [2, chunks]: rows and bytes.

    Raises:
        ValueError: They cannot be a shard's: order and memory are planned by them.
        TypeError, LookupError, OverflowError: They are no numbers, or not there.
    """
    chunks = [chunk for part in body["parts"] for chunk in part["chunks"]]
    table = [[chunk["num_rows"] for chunk in chunks], [chunk["num_bytes"] for chunk in chunks]]
    # Python's own min and max: of a dozen numbers they are ten times as fast as NumPy's, and there are 100,000 shards.
    for values, most, unit in zip(table, (MAX_CHUNK_ROWS, MAX_CHUNK_BYTES), ("rows", "bytes"), strict=True):
        if values and not 1 <= min(values) <= max(values) <= most:
            raise ValueError(f"chunks of {min(values)} to {max(values)} {unit}, not 1 to {most}")
    return np.array(table, np.int64)


def _part_and_chunk(body: dict[str, Any], index: int) -> tuple[Part, Chunk]:
    """A shard's chunk by its number, of all that its record has only the part that it is in."""
    for part in body["parts"]:
        if index < len(part["chunks"]):
            found = Part.model_validate(part)
            return found, found.chunks[index]
        index -= len(part["chunks"])
    raise AssertionError("the record has fewer chunks than when the catalog was made")


def _nothing_left(dataset: Dataset, rows: npt.NDArray[np.int64], holdout_rows: int, *, holdout: bool) -> ConfigError:
    what = "validation" if holdout else "training"
    return ConfigError(
        "stream-empty",
        where=dataset.store.url,
        expected=f"rows for {what}",
        actual=f"none: the dataset has {int(rows.sum())} rows in {len(rows)} chunks, {holdout_rows} are to be held out",
        remedy="encode captions, or hold out fewer rows (--stream.holdout-rows); whole chunks are held out",
    )

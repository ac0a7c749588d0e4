"""The end of a run: every input accounted for, the index written, orphans of dead attempts collected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from schemas.documents import unseal
from schemas.index import INDEX_PATH, dump_index, read_ledger
from schemas.latent_manifest import Manifests, read_manifests
from schemas.ledger import (
    PART_NAME,
    REJECTS_FOLDER,
    SHARDS_FOLDER,
    list_committed,
    part_path,
    record_path,
    rejects_path,
)
from schemas.quarantine import QUARANTINE_FOLDER, quarantine_path
from schemas.storage import TEMPORARY_SUFFIX, Store

_INDEX_ATTEMPTS = 3
"""Of a run that was stopped: another one may go on committing for hours."""


@dataclass(frozen=True)
class Totals:
    """The whole dataset, from its ledger, for the groups asked about.

    Attributes:
        num_records: Committed (shard, group) pairs.
        num_inputs: Inputs found in the tars; `num_encoded + num_rejects`.
        num_encoded: Rows encoded.
        num_rejects: Inputs rejected, each with its reason under rejects/.
        num_damaged: Pairs whose tar could not be read whole.
        num_bytes: Bytes of parts.
        raw_bytes: Bytes of tensors before compression.
        orphans: Objects that were collected.
    """

    num_records: int
    num_inputs: int
    num_encoded: int
    num_rejects: int
    num_damaged: int
    num_bytes: int
    raw_bytes: int
    orphans: tuple[str, ...]


def finalize(dataset: Store, groups: Iterable[str], dead_leases: Iterable[str], *, collect_orphans: bool) -> Totals:
    """Writes the index and, for a run that has the dataset to itself, collects orphans.

    Args:
        dataset: The dataset.
        groups: What the totals are over.
        dead_leases: `runs/*.alive` objects of runs that are known to be dead.
        collect_orphans: Whether no other process can be writing to the dataset.

    Raises:
        DamagedDataError: A manifest or ledger record is not what was written; nothing is deleted then.
    """
    records = _write_index(dataset)
    orphans = tuple(sorted(find_orphans(dataset, records))) if collect_orphans else ()
    dataset.delete([*orphans, *dead_leases])
    wanted = set(groups)
    chosen = [record for (group, _), record in records.items() if group in wanted]
    return Totals(
        num_records=len(chosen),
        num_inputs=sum(record["num_inputs"] for record in chosen),
        num_encoded=sum(record["num_encoded"] for record in chosen),
        num_rejects=sum(record["num_rejects"] for record in chosen),
        num_damaged=sum(bool(record["source"]["damage"]) for record in chosen),
        num_bytes=sum(part["num_bytes"] for record in chosen for part in record["parts"]),
        raw_bytes=sum(stats["raw_bytes"] for record in chosen for stats in record["stats"].values()),
        orphans=orphans,
    )


def _write_index(dataset: Store) -> dict[tuple[str, str], dict[str, Any]]:
    """Writes the index of all records, and returns their bodies.

    A driver that was suspended on the way, and taken for dead, would put an index of long ago in place of a newer one.
    So whoever has written one looks whether the ledger still is what it wrote.
    """
    manifests = read_manifests(dataset)
    for _ in range(_INDEX_ATTEMPTS):
        stored = read_ledger(dataset)
        records = {name: unseal(data, where=dataset.locate(record_path(*name))) for name, data in stored.items()}
        dataset.replace(INDEX_PATH, _index(stored, manifests, dataset.url))
        if stored.keys() == {(group, shard) for group, shards in list_committed(dataset).items() for shard in shards}:
            break
    return records


def _index(stored: dict[tuple[str, str], bytes], manifests: Manifests, where: str) -> bytes:
    captions, latents = (
        None if manifest is None else manifest.identity_sha256 for manifest in (manifests.captions, manifests.latents)
    )
    return dump_index(stored, captions, latents_identity_sha256=latents, where=where)


def find_orphans(dataset: Store, records: dict[tuple[str, str], dict[str, Any]]) -> set[str]:
    """Objects that no ledger record refers to.

    Parts and rejects of dead attempts, temporary files of killed writers, and quarantine notes of shards that have been
    committed since.

    Args:
        dataset: The dataset.
        records: Bodies of all ledger records by (group, shard).
    """
    kept = {part_path(shard, part["name"]) for (_, shard), body in records.items() for part in body["parts"]}
    kept |= {rejects_path(*name) for name, body in records.items() if body["rejects"] is not None}
    orphans = {
        info.path
        for folder in (SHARDS_FOLDER, REJECTS_FOLDER)
        for info in dataset.list(folder)
        if info.path not in kept and _has_own_name(info.path)
    }
    committed_notes = {quarantine_path(*name) for name in records}
    orphans |= {info.path for info in dataset.list(QUARANTINE_FOLDER) if info.path in committed_notes}
    if dataset.local_root is not None:
        orphans |= {info.path for info in dataset.list() if TEMPORARY_SUFFIX.search(info.path)}
    return {path for path in orphans if _is_in_place(dataset, path)}


def _has_own_name(path: str) -> bool:
    """Whether a run can have written an object: a folder taken for a dataset by mistake must not lose what is in it."""
    name = path.rpartition("/")[2]
    return PART_NAME.fullmatch(name) is not None or name.endswith(".jsonl")


def _is_in_place(dataset: Store, path: str) -> bool:
    """Whether no link leads to an object of a local folder: a run makes none, and another dataset may lie behind it."""
    if dataset.local_root is None:
        return True
    parent = (dataset.local_root / path).parent
    return parent.resolve() == dataset.local_root.resolve() / parent.relative_to(dataset.local_root)

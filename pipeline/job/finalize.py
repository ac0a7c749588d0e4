"""The end of a run: every input accounted for, the index written, orphans of dead attempts collected."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from schemas.index import INDEX_PATH, IndexWriter, iter_ledger
from schemas.latent_manifest import read_manifests
from schemas.ledger import (
    PART_NAME,
    REJECTS_FOLDER,
    SHARDS_FOLDER,
    list_committed,
    part_path,
    record_path,
    rejects_path,
    valid_record,
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
    accounts = _write_index(dataset, frozenset(groups))
    orphans = tuple(sorted(_find_orphans(dataset, accounts))) if collect_orphans else ()
    dataset.delete([*orphans, *dead_leases])
    return dataclasses.replace(accounts.totals, orphans=orphans)


class _Accounts:
    """What is kept of the ledger's records: of 100,000, their fields would take gigabytes.

    Attributes:
        names: (group, shard) of every record.
        kept: Parts and rejects that a record refers to.
        totals: Over the groups asked about.
    """

    def __init__(self, groups: frozenset[str]) -> None:
        self._groups = groups
        self.names: set[tuple[str, str]] = set()
        self.kept: set[str] = set()
        self.totals = Totals(0, 0, 0, 0, 0, 0, 0, ())

    def add(self, group: str, shard: str, record: dict[str, Any]) -> None:
        """Takes in a record's fields."""
        self.names.add((group, shard))
        self.kept |= {part_path(shard, part["name"]) for part in record["parts"]}
        if record["rejects"] is not None:
            self.kept.add(rejects_path(group, shard))
        if group not in self._groups:
            return
        before = self.totals
        self.totals = Totals(
            num_records=before.num_records + 1,
            num_inputs=before.num_inputs + record["num_inputs"],
            num_encoded=before.num_encoded + record["num_encoded"],
            num_rejects=before.num_rejects + record["num_rejects"],
            num_damaged=before.num_damaged + bool(record["source"]["damage"]),
            num_bytes=before.num_bytes + sum(part["num_bytes"] for part in record["parts"]),
            raw_bytes=before.raw_bytes + sum(stats["raw_bytes"] for stats in record["stats"].values()),
            orphans=(),
        )


def _write_index(dataset: Store, groups: frozenset[str]) -> _Accounts:
    """Writes the index of all records, and takes them into the accounts.

    A driver that was suspended on the way, and taken for dead, would put an index of long ago in place of a newer one.
    So whoever has written one looks whether the ledger still is what it wrote.
    """
    manifests = read_manifests(dataset)
    captions, latents = (
        None if manifest is None else manifest.identity_sha256 for manifest in (manifests.captions, manifests.latents)
    )
    for _ in range(_INDEX_ATTEMPTS):
        index, accounts = IndexWriter(captions, latents, where=dataset.url), _Accounts(groups)
        for name, data in iter_ledger(dataset):
            body = index.add(*name, data)
            with valid_record(dataset.locate(record_path(*name))):
                accounts.add(*name, body)
        dataset.replace(INDEX_PATH, index.finish())
        if accounts.names == {(group, shard) for group, some in list_committed(dataset).items() for shard in some}:
            break
    return accounts


def _find_orphans(dataset: Store, accounts: _Accounts) -> set[str]:
    """Objects that no ledger record refers to.

    Parts and rejects of dead attempts, temporary files of killed writers, and quarantine notes of shards that have been
    committed since.
    """
    orphans = {
        info.path
        for folder in (SHARDS_FOLDER, REJECTS_FOLDER)
        for info in dataset.list(folder)
        if info.path not in accounts.kept and _has_own_name(info.path)
    }
    committed_notes = {quarantine_path(*name) for name in accounts.names}
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

"""A validation from end to end: one listing, then shard by shard in threads, then what only the whole can tell."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from schemas.group_schema import require_manifest
from schemas.latent_manifest import LatentManifest, Manifests
from schemas.ledger import LedgerRecord, Part, part_path, record_path, rejects_path
from schemas.manifest import Manifest
from schemas.storage import Store
from schemas.validator.codes import Code
from schemas.validator.findings import Findings, Level, Progress, Report, Totals
from schemas.validator.index_file import check_index
from schemas.validator.manifests import check_every_kind, check_manifests
from schemas.validator.objects import Listing, check_orphans, check_quarantine, confirmed_size, list_objects
from schemas.validator.part_files import check_head_and_tail, read_checked
from schemas.validator.records import (
    check_alignment,
    chunk_table_problem,
    excess_problem,
    group_of_part,
    read_record,
)
from schemas.validator.rejects_files import check_rejects
from schemas.validator.rows import PartRows, RowChecker
from schemas.validator.shard_rows import check_rows
from schemas.validator.source import check_damage, check_source

_T = TypeVar("_T")
_R = TypeVar("_R")


def validate(
    url: str,
    level: Level = "checksums",
    *,
    source: bool = True,
    num_threads: int = 8,
    progress: Progress | None = None,
) -> Report:
    """Checks a dataset against SPEC.md.

    Args:
        url: Folder or bucket URL.
        level: "structure" reads documents, and of parts the first and last bytes; "checksums" reads everything once and
            compares it with the ledger; "values" also decodes it. Each includes the one before.
        source: At level "values", count the keys of every input tar that can be reached.
        num_threads: Parts read at a time; each holds one chunk in memory.
        progress: Called after every shard.

    Raises:
        MissingObjectError: There is no dataset at `url`.
        ConfigError, StorageError: It cannot be reached.
    """
    store, findings = Store(url), Findings()
    manifests = check_manifests(store, findings)
    if manifests is None:
        return findings.report(store.url, level, Totals())
    listing = list_objects(store, findings)
    check_every_kind(store, manifests, listing, findings)
    return _Validation(store, manifests, listing, level, source, findings).run(num_threads, progress)


@dataclass
class _Validation:
    store: Store
    manifests: Manifests
    listing: Listing
    level: Level
    source: bool
    findings: Findings
    totals: Totals = field(default_factory=Totals)
    referenced: set[str] = field(default_factory=set)
    ledger: dict[tuple[str, str], str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, num_threads: int, progress: Progress | None) -> Report:
        shards = sorted(self.listing.records)
        # Two pools, so that a shard that waits for its parts takes no part's place.
        with ThreadPoolExecutor(num_threads) as parts, ThreadPoolExecutor(num_threads) as workers:
            done = _bounded_map(workers, lambda shard: self._check_shard(shard, parts), shards, 2 * num_threads)
            for number, _ in enumerate(done, 1):
                if progress is not None:
                    progress(number, len(shards))
        self._add_unreadable()
        check_orphans(self.listing, self.referenced, self.findings)
        with self.findings.guard("quarantine"):
            check_quarantine(self.store, self.listing, self.findings)
        check_index(self.store, self.manifests, self.listing, self.ledger, self.findings)
        self.totals.num_shards = len(shards)
        self.totals.groups = sorted({group for groups in self.listing.records.values() for group in groups})
        return self.findings.report(self.store.url, self.level, self.totals)

    def _check_shard(self, shard: str, parts: ThreadPoolExecutor) -> None:
        records: dict[str, LedgerRecord] = {}
        for group in self.listing.records[shard]:
            manifest = self.manifests.of(group)
            found = None if manifest is None else read_record(self.store, manifest, group, shard, self.findings)
            if found is None:
                continue
            record, data = found
            with self.lock:
                self.ledger[group, shard] = hashlib.sha256(data).hexdigest()
                self._count(record)
            if (record.group, record.shard) == (group, shard):
                records[group] = record
        check_alignment(records, self.findings)
        for record in list(records.values())[:1]:
            check_damage(record, self.findings)
        source_checked = False
        for group, record in records.items():
            with self.findings.guard(record_path(group, shard)):
                keys = self._check_record(record, parts)
                if keys is not None and self.source and not source_checked:
                    source_checked = True
                    counted = check_source(record, keys, self.findings)
                    with self.lock:
                        self.totals.num_sources_counted += counted

    def _count(self, record: LedgerRecord) -> None:
        self.totals.num_records += 1
        self.totals.num_parts += len(record.parts)
        self.totals.num_rows += record.num_rows
        self.totals.num_encoded += record.num_encoded
        self.totals.num_rejects += record.num_rejects
        self.totals.num_bytes += record.num_bytes
        self.referenced.update(part_path(record.shard, part.name) for part in record.parts)
        if record.rejects is not None:
            self.referenced.add(rejects_path(record.group, record.shard))

    def _check_record(self, record: LedgerRecord, parts: ThreadPoolExecutor) -> list[str] | None:
        """Checks a record's objects. Returns the shard's keys at level values, if all rows could be read."""
        first_rows = [sum(part.num_rows for part in record.parts[:index]) for index in range(len(record.parts))]
        pending = [
            parts.submit(self._check_part, record, part, first_row)
            for part, first_row in zip(record.parts, first_rows, strict=True)
        ]
        rejects = None
        path = rejects_path(record.group, record.shard)
        with self.findings.guard(path):
            rejects = check_rejects(self.store, self.listing, record, self.level, self.findings)
        rows = [future.result() for future in pending]
        if self.level != "values":
            return None
        return check_rows(record, rows, rejects, self.findings)

    def _check_part(self, record: LedgerRecord, part: Part, first_row: int) -> PartRows:
        path = part_path(record.shard, part.name)
        manifest = require_manifest(self.manifests, record.group, where=path)
        checker = RowChecker(manifest, record, part, first_row, self.findings)
        complete = False
        with self.findings.guard(path):
            complete = self._check_part_file(manifest, record, part, checker)
        checker.rows.complete &= complete
        return checker.rows

    def _check_part_file(
        self, manifest: Manifest | LatentManifest, record: LedgerRecord, part: Part, checker: RowChecker
    ) -> bool:
        path = part_path(record.shard, part.name)
        size = confirmed_size(self.store, self.listing, path, part.num_bytes)
        if size is None:
            self.findings.add(Code.PART_MISSING, path, expected=f"{part.num_bytes} bytes", actual="not found")
            return False
        if size != part.num_bytes:
            self.findings.add(Code.PART_SIZE, path, expected=f"{part.num_bytes} bytes", actual=f"{size} bytes")
            return False
        excess = excess_problem(part)
        if excess is not None:
            self.findings.add(Code.CHUNK_TABLE, path, expected=excess[0], actual=excess[1])
            return False
        table_is_right = chunk_table_problem(part) is None
        if table_is_right:
            check_head_and_tail(self.store, manifest, record, part, self.findings)
        if self.level == "structure":
            return False
        for chunk, data in read_checked(self.store, record, part, self.findings):
            if self.level == "values":
                checker.check(chunk, data)
        return table_is_right

    def _add_unreadable(self) -> None:
        """What belongs to a record that cannot be read is no orphan: restoring the record may be all it needs."""
        unreadable = {
            (group, shard)
            for shard, groups in self.listing.records.items()
            for group in groups
            if (group, shard) not in self.ledger
        }
        if not unreadable:
            return
        self.referenced.update(rejects_path(*name) for name in unreadable)
        for path in self.listing.sizes:
            _, _, rest = path.partition("/")
            shard, _, name = rest.rpartition("/")
            if (group_of_part(name), shard) in unreadable:
                self.referenced.add(path)


def _bounded_map(
    pool: ThreadPoolExecutor, function: Callable[[_T], _R], items: Iterable[_T], window: int
) -> Iterator[_R]:
    """Like `pool.map`, with at most `window` items under way."""
    pending: deque[Future[_R]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= window:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()

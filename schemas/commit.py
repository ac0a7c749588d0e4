"""The commit of a shard's group: parts, then rejects, then one ledger record by conditional create.

Nothing counts until the record is there, and the first record wins: a late or zombie writer changes nothing, whatever
it had already stored. What it left behind is an orphan, collected by `finalize`.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

import pyarrow as pa

from schemas.errors import ContractError, MissingObjectError
from schemas.ledger import LedgerRecord, Part, RejectsObject, part_path, record_path, rejects_path
from schemas.limits import MAX_REJECTS, MAX_REJECTS_BYTES
from schemas.manifest import Layout
from schemas.parts import LazyBatch, build_parts, encoding_pool
from schemas.rejects import Reject, dump_rejects
from schemas.storage import Store


@dataclass(frozen=True)
class StoredRejects:
    """A shard's rejects as they will be committed."""

    data: bytes
    entry: RejectsObject | None


def store_parts(
    store: Store,
    batches: Iterable[pa.RecordBatch | LazyBatch],
    schema: pa.Schema,
    group: str,
    shard: str,
    layout: Layout,
    pool: Executor | None = None,
) -> tuple[Part, ...]:
    """Writes a shard's parts as their rows arrive, while later ones are built. Nothing is committed yet.

    Memory holds up to `parts_in_flight()` parts that are being stored, and what `build_parts` holds.

    Args:
        store: The dataset.
        batches: The shard's chunks in row order. A generator is closed by the caller.
        schema: From `caption_schema` or `latent_schema`.
        group: Column group.
        shard: Its name.
        layout: The dataset's layout.
        pool: From `encoding_pool`; default: one for this call.

    Raises:
        StorageError: A part could not be written.
        Whatever `batches` raises. No thread works on the shard any more when this function returns or raises.
    """
    entries = []
    with ExitStack() as stack:
        if pool is None:
            pool = stack.enter_context(encoding_pool())
        stores = stack.enter_context(ThreadPoolExecutor(parts_in_flight(), "store-part"))
        parts = stack.enter_context(closing(build_parts(batches, schema, group, layout, pool)))
        storing: deque[Future[bool]] = deque()
        for part in parts:
            while storing and (len(storing) >= parts_in_flight() or storing[0].done()):
                storing.popleft().result()
            path = part_path(shard, part.entry.name)
            storing.append(stores.submit(store.create_content_addressed, path, part.data, part.entry.num_bytes))
            entries.append(part.entry)
            # Its bytes belong to the thread that stores it, which drops them once they are stored: not only when the
            # next part is whole.
            del part
        for stored in storing:
            stored.result()
    return tuple(entries)


def parts_in_flight() -> int:
    """Bound on the parts of one shard that are stored at the same time: one for each four threads, and four at most.

    A bucket takes several objects faster than one. Two cores do not encode faster than one object is stored.
    """
    threads: int = pa.cpu_count()
    return max(1, min(threads // 4, 4))


def prepare_rejects(rejects: Sequence[Reject]) -> StoredRejects:
    """The rejects file's bytes and its entry for the record; no file if there are none.

    Raises:
        ContractError: They are more than readers accept (`rejects-too-many`).
    """
    data = dump_rejects(rejects)
    if len(rejects) > MAX_REJECTS or len(data) > MAX_REJECTS_BYTES:
        raise ContractError(
            "rejects-too-many",
            where="the rejects of a shard",
            expected=f"at most {MAX_REJECTS:,}, of {MAX_REJECTS_BYTES:,} bytes together",
            actual=f"{len(rejects):,}, of {len(data):,} bytes",
            remedy="if the tar is what you want, cut it into smaller ones; else leave it out",
        )
    if not data:
        return StoredRejects(b"", None)
    return StoredRejects(data, RejectsObject(num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))


def commit(store: Store, record: LedgerRecord, rejects: StoredRejects) -> bool:
    """Makes a shard's group exist.

    Args:
        store: The dataset.
        record: What to commit; its parts are stored already.
        rejects: As in `record.rejects`.

    Returns:
        False if another writer had committed it first; then nothing has changed.

    Raises:
        MissingObjectError, ContractError: A part is not there, or not whole (it was collected as an orphan, say).
        StorageError: The store failed.
    """
    assert rejects.entry == record.rejects
    path = record_path(record.group, record.shard)
    if store.head(path) is not None:
        return False
    for part in record.parts:
        _require_stored(store, record.shard, part)
    if rejects.entry is not None and not _store_rejects(store, record, rejects.data):
        return False
    data = record.dump()
    # A store may have taken it and its answer been lost: then the retry finds it there. It names its writer and time.
    return store.create(path, data) or store.get(path) == data


def _store_rejects(store: Store, record: LedgerRecord, data: bytes) -> bool:
    """Writes the rejects file; False, and nothing is changed, if a record of another writer refers to the one there.

    Its name is no digest of its content, and a writer may have been cut off for minutes since it saw no record: so it
    is created, and one that is there is looked at before it is replaced.
    """
    path = rejects_path(record.group, record.shard)
    if store.create(path, data):
        return True
    if store.head(record_path(record.group, record.shard)) is not None:
        return False
    # Left by an attempt that died before its record; no record refers to it.
    if store.get(path, max_bytes=MAX_REJECTS_BYTES) != data:
        store.replace(path, data)
    return True


def _require_stored(store: Store, shard: str, part: Part) -> None:
    path = part_path(shard, part.name)
    found = store.head(path)
    remedy = "run the same command again; if it comes back, another process is deleting from the dataset"
    if found is None:
        raise MissingObjectError(
            "part-vanished",
            where=store.locate(path),
            expected=f"the part just written, {part.num_bytes} bytes",
            actual="not found",
            remedy=remedy,
        )
    if found.num_bytes != part.num_bytes:
        raise ContractError(
            "part-size",
            where=store.locate(path),
            expected=f"{part.num_bytes} bytes",
            actual=f"{found.num_bytes} bytes",
            remedy=remedy,
        )

"""`index.arrow` against the ledger it is a snapshot of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pyarrow as pa

from schemas.documents import unseal
from schemas.index import IDENTITY_KEY, INDEX_PATH, LATENTS_IDENTITY_KEY, index_schema, load_index
from schemas.latent_manifest import LATENTS_GROUP, Manifests
from schemas.ledger import record_path
from schemas.limits import MAX_INDEX_BYTES
from schemas.storage import Store
from schemas.validator.codes import Code, Severity
from schemas.validator.findings import Findings
from schemas.validator.objects import Listing

_NO_RECORD = "the ledger has no such record"


def check_index(
    store: Store, manifests: Manifests, listing: Listing, ledger: Mapping[tuple[str, str], str], findings: Findings
) -> None:
    """Compares the index with the ledger.

    Args:
        store: The dataset.
        manifests: Its manifests, those that can be read.
        listing: Its objects.
        ledger: SHA-256 of the stored bytes of every readable record, by (group, shard).
        findings: Where to.
    """
    in_ledger = {(group, shard) for shard, groups in listing.records.items() for group in groups}
    if not listing.has_index:
        severity = Severity.NOTE if findings.live else None
        findings.add(Code.INDEX_MISSING, INDEX_PATH, expected="an index", actual="not found", severity=severity)
        return
    with findings.guard(INDEX_PATH):
        table = load_index(store.get(INDEX_PATH, max_bytes=MAX_INDEX_BYTES), where=INDEX_PATH)
        expected = index_schema(None)
        if not table.schema.equals(expected):
            findings.add(Code.INDEX_DAMAGED, INDEX_PATH, expected=f"columns {expected.names}", actual=str(table.schema))
            return
        _check_identities(table, manifests, findings)
        indexed = _compare(table, ledger, in_ledger, findings)
        missing = sorted(in_ledger - indexed)
        if missing:
            names = ", ".join(record_path(*name) for name in missing[:3])
            severity = Severity.NOTE if findings.live else None
            actual = f"{len(missing)} are not in it: {names}{', ...' if len(missing) > 3 else ''}"
            findings.add(Code.INDEX_STALE, INDEX_PATH, expected="every ledger record", actual=actual, severity=severity)


def _check_identities(table: pa.Table, manifests: Manifests, findings: Findings) -> None:
    """What an index says of a kind of group is what its manifest says; of a kind that came later it says nothing."""
    stated, groups = table.schema.metadata or {}, set(table.column("group").to_pylist())
    for manifest, name, has_rows in (
        (manifests.captions, IDENTITY_KEY, bool(groups - {LATENTS_GROUP})),
        (manifests.latents, LATENTS_IDENTITY_KEY, LATENTS_GROUP in groups),
    ):
        if manifest is None or (name not in stated and not has_rows):
            continue
        identity = stated.get(name, b"").decode(errors="replace")
        if identity != manifest.identity_sha256:
            wanted = f"{name.decode()} {manifest.identity_sha256}"
            findings.add(Code.INDEX_CONTRADICTION, INDEX_PATH, expected=wanted, actual=identity or "absent")


def _compare(
    table: pa.Table, ledger: Mapping[tuple[str, str], str], in_ledger: set[tuple[str, str]], findings: Findings
) -> set[tuple[str, str]]:
    indexed: set[tuple[str, str]] = set()
    for batch in table.to_batches():
        for entry in batch.to_pylist():
            name = (entry["group"], entry["shard"])
            problem = None if name not in indexed else ("each record once", "it is there twice")
            indexed.add(name)
            problem = problem or _problem(name, entry, ledger, in_ledger)
            if problem is not None:
                expected = f"for {record_path(*name)}: {problem[0]}"
                findings.add(Code.INDEX_CONTRADICTION, INDEX_PATH, expected=expected, actual=problem[1])
    return indexed


def _problem(
    name: tuple[str, str],
    entry: dict[str, object],
    ledger: Mapping[tuple[str, str], str],
    in_ledger: set[tuple[str, str]],
) -> tuple[str, str] | None:
    if name not in in_ledger:
        return "a record of the ledger", _NO_RECORD
    data = entry["record"]
    assert isinstance(data, bytes)
    actual = hashlib.sha256(data).hexdigest()
    if name in ledger and actual != ledger[name]:
        return f"the ledger's record, sha256 {ledger[name]}", f"a record of sha256 {actual}"
    num_rows = unseal(data, where=INDEX_PATH).get("num_rows")
    if num_rows != entry["num_rows"]:
        return f"num_rows {num_rows}, as in the record beside it", f"num_rows {entry['num_rows']}"
    return None

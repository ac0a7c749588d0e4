"""Rejects files against their records and, at level values, against the null rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from schemas.ledger import LedgerRecord, record_path, rejects_path
from schemas.limits import MAX_REJECTS_BYTES
from schemas.rejects import Reject, load_rejects
from schemas.storage import Store
from schemas.validator.codes import Code
from schemas.validator.findings import Findings, Level
from schemas.validator.objects import Listing, confirmed_size


def check_rejects(
    store: Store, listing: Listing, record: LedgerRecord, level: Level, findings: Findings
) -> list[Reject] | None:
    """Checks a record's rejects file as far as `level` goes.

    Returns:
        At level values the rejects, None if they cannot be read; at other levels None.
    """
    path = rejects_path(record.group, record.shard)
    entry = record.rejects
    if (entry is not None) != (record.num_rejects > 0):
        actual = "a rejects file" if entry is not None else "no rejects file"
        expected = f"a rejects file for {record.num_rejects} rejects" if entry is None else "none for 0 rejects"
        findings.add(Code.REJECTS_COUNT, record_path(record.group, record.shard), expected=expected, actual=actual)
    if entry is None:
        return []
    size = confirmed_size(store, listing, path, entry.num_bytes)
    if size is None:
        findings.add(Code.REJECTS_MISSING, path, expected=f"{entry.num_bytes} bytes", actual="not found")
        return None
    if size != entry.num_bytes:
        findings.add(Code.REJECTS_SIZE, path, expected=f"{entry.num_bytes} bytes", actual=f"{size} bytes")
        return None
    if level == "structure":
        return None
    data = store.get(path, max_bytes=MAX_REJECTS_BYTES)
    actual = hashlib.sha256(data).hexdigest()
    if actual != entry.sha256:
        findings.add(Code.REJECTS_CHECKSUM, path, expected=f"sha256 {entry.sha256}", actual=f"sha256 {actual}")
        return None
    return load_rejects(data, where=path) if level == "values" else None


def check_reasons(
    record: LedgerRecord, rejects: Sequence[Reject], null_rows: Sequence[tuple[int, str]], findings: Findings
) -> None:
    """Every null row has its reject and every reject with a row its null row, and the counts agree.

    Args:
        record: The shard's record.
        rejects: All its rejects.
        null_rows: (row, key) of every null row.
        findings: Where to.
    """
    path = rejects_path(record.group, record.shard)
    if len(rejects) != record.num_rejects:
        findings.add(Code.REJECTS_COUNT, path, expected=f"{record.num_rejects} lines", actual=f"{len(rejects)} lines")
    reasons = Counter(reject.key for reject in rejects if reject.has_row)
    for row, key in null_rows:
        if reasons[key] == 0:
            findings.add(Code.REJECTS_ROWS, path, row=row, key=key, expected="a reject for a null row", actual="none")
    null_keys = {key for _, key in null_rows}
    for reject_key, count in reasons.items():
        if reject_key not in null_keys or count > 1:
            expected = "one null row for a reject with has_row"
            actual = "no null row of this key" if reject_key not in null_keys else f"{count} rejects for one row"
            findings.add(Code.REJECTS_ROWS, path, key=reject_key, expected=expected, actual=actual)

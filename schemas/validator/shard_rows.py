"""What the rows of a whole shard add up to, against its record."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.identity import ENCODER_NAMES
from schemas.ledger import LedgerRecord, keys_sha256, record_path
from schemas.rejects import Reject
from schemas.validator.codes import Code
from schemas.validator.findings import Findings
from schemas.validator.rejects_files import check_reasons
from schemas.validator.rows import PartRows, check_stats


def check_rows(
    record: LedgerRecord, parts: Sequence[PartRows], rejects: Sequence[Reject] | None, findings: Findings
) -> list[str] | None:
    """Checks keys, counts, statistics and rejects of a shard whose parts have been read.

    Returns:
        The shard's keys in row order, or None if not all of its rows could be read: that is a finding already.
    """
    if not all(part.complete for part in parts):
        return None
    path = record_path(record.group, record.shard)
    keys = [key for part in parts for key in part.keys]
    null_rows = [entry for part in parts for entry in part.null_rows]
    _check_unique(keys, path, findings)
    digest = keys_sha256(keys)
    if digest != record.keys_sha256:
        expected = f"keys_sha256 {record.keys_sha256}"
        findings.add(Code.KEYS_DIGEST, path, expected=expected, actual=f"the rows' keys give {digest}")
    num_encoded = len(keys) - len(null_rows)
    if num_encoded != record.num_encoded:
        expected = f"num_encoded {record.num_encoded}"
        findings.add(Code.ENCODED_COUNT, path, expected=expected, actual=f"{num_encoded} rows are not null")
    totals: dict[str, list[int]] = {
        name: [sum(part.stats[name][i] for part in parts) for i in range(3)] for name in ENCODER_NAMES
    }
    check_stats(record, path, totals, findings)
    if rejects is not None:
        check_reasons(record, rejects, null_rows, findings)
    return keys


def _check_unique(keys: Sequence[str], path: str, findings: Findings) -> None:
    seen: dict[str, int] = {}
    for row, key in enumerate(keys):
        if key in seen:
            findings.add(
                Code.KEY_DUPLICATE, path, row=row, key=key, expected="a key once", actual=f"row {seen[key]} has it too"
            )
        seen.setdefault(key, row)

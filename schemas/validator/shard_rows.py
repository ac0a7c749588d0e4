"""What the rows of a whole shard add up to, against its record."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.latent_manifest import LATENTS_GROUP
from schemas.ledger import LedgerRecord, keys_sha256, record_path
from schemas.rejects import Reject
from schemas.validator.batch_rows import Stats
from schemas.validator.caption_rows import sum_encoder_stats
from schemas.validator.codes import Code
from schemas.validator.findings import Findings
from schemas.validator.latent_rows import sum_latent_stats
from schemas.validator.rejects_files import check_reasons
from schemas.validator.rows import PartRows


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
    add_up = sum_latent_stats if record.group == LATENTS_GROUP else sum_encoder_stats
    _check_stats(record, path, add_up(part.stats for part in parts), findings)
    if rejects is not None:
        check_reasons(record, rejects, null_rows, findings)
    return keys


def _check_stats(record: LedgerRecord, path: str, stats: dict[str, Stats], findings: Findings) -> None:
    """Compares a record's statistics with those of its rows."""
    if sorted(record.stats) != sorted(stats):
        expected = f"statistics of {', '.join(stats)}"
        findings.add(Code.STATS_MISMATCH, path, expected=expected, actual=", ".join(record.stats) or "none")
        return
    for name, actual in stats.items():
        if record.stats[name] != actual:
            findings.add(
                Code.STATS_MISMATCH, path, expected=f"{name}: {record.stats[name]}", actual=f"in the rows: {actual}"
            )


def _check_unique(keys: Sequence[str], path: str, findings: Findings) -> None:
    seen: dict[str, int] = {}
    for row, key in enumerate(keys):
        if key in seen:
            findings.add(
                Code.KEY_DUPLICATE, path, row=row, key=key, expected="a key once", actual=f"row {seen[key]} has it too"
            )
        seen.setdefault(key, row)

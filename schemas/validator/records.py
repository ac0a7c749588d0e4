"""Ledger records against their paths, the manifest, their own sums and each other."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.latent_manifest import LatentManifest
from schemas.ledger import PART_NAME, LedgerRecord, Part, load_record, record_path
from schemas.limits import MAX_PART_HEAD_BYTES
from schemas.manifest import CONTAINER_SUFFIX, FORMAT_VERSION, Manifest
from schemas.storage import Store
from schemas.validator.codes import Code
from schemas.validator.findings import Findings

AnyManifest = Manifest | LatentManifest


def read_record(
    store: Store, manifest: AnyManifest, group: str, shard: str, findings: Findings
) -> tuple[LedgerRecord, bytes] | None:
    """Reads a record and checks what can be told from it alone.

    Returns:
        The record and its stored bytes, or None if it cannot be read: that is a finding then.
    """
    path = record_path(group, shard)
    with findings.guard(path):
        data = store.get(path)
        record = load_record(data, where=path)
        _check_place(record, manifest, group, shard, path, findings)
        for index, part in enumerate(record.parts):
            _check_name(record, part, index, manifest, path, findings)
        _check_chunk_rows(record, manifest, path, findings)
        return record, data
    return None


def _check_place(
    record: LedgerRecord, manifest: AnyManifest, group: str, shard: str, path: str, findings: Findings
) -> None:
    if (record.group, record.shard) != (group, shard):
        actual = f"group {record.group!r}, shard {record.shard!r}"
        findings.add(Code.RECORD_MISPLACED, path, expected=f"group {group!r}, shard {shard!r}", actual=actual)
    if record.format_version != FORMAT_VERSION:
        actual = f"version {record.format_version}"
        findings.add(Code.FORMAT_VERSION_UNKNOWN, path, expected=f"version {FORMAT_VERSION}", actual=actual)
    if record.identity_sha256 != manifest.identity_sha256:
        expected = f"identity {manifest.identity_sha256} of the manifest"
        findings.add(Code.RECORD_IDENTITY, path, expected=expected, actual=f"identity {record.identity_sha256}")


def _check_name(
    record: LedgerRecord, part: Part, index: int, manifest: AnyManifest, path: str, findings: Findings
) -> None:
    suffix = CONTAINER_SUFFIX[manifest.layout.container]
    expected = f"{record.group}-{index:05d}-{part.sha256[:16]}{suffix}"
    if part.name != expected:
        findings.add(Code.PART_NAME, path, expected=expected, actual=part.name)


def _check_chunk_rows(record: LedgerRecord, manifest: AnyManifest, path: str, findings: Findings) -> None:
    chunks = [chunk for _, chunk in record.chunks()]
    chunk_rows = manifest.layout.chunk_rows
    for index, chunk in enumerate(chunks):
        last = index == len(chunks) - 1
        if chunk.num_rows > chunk_rows or (chunk.num_rows < chunk_rows and not last):
            expected = f"chunk {index} to have {'at most ' if last else ''}{chunk_rows} rows"
            findings.add(Code.CHUNK_TABLE, path, expected=expected, actual=f"{chunk.num_rows} rows")
    for index, part in enumerate(record.parts):
        problem = chunk_table_problem(part)
        if problem is not None:
            findings.add(Code.CHUNK_TABLE, path, expected=f"chunks of part {index}: {problem[0]}", actual=problem[1])


def chunk_table_problem(part: Part) -> tuple[str, str] | None:
    """What is wrong with where a part's chunks lie, as (expected, actual); None if they lie one after the other."""
    if not part.chunks:
        return "at least one", "none"
    end = part.chunks[0].offset
    for index, chunk in enumerate(part.chunks):
        if chunk.offset != end:
            return f"chunk {index} to begin at byte {end}", f"it begins at byte {chunk.offset}"
        end += chunk.num_bytes
    if end > part.num_bytes:
        return f"the last chunk to end within the part's {part.num_bytes} bytes", f"it ends at byte {end}"
    return None


def excess_problem(part: Part) -> tuple[str, str] | None:
    """As `chunk_table_problem`, if there is more besides the chunks than any head and footer, which nobody reads."""
    # A footer repeats the schema, and has 24 bytes for each chunk.
    most = 2 * MAX_PART_HEAD_BYTES + 24 * len(part.chunks)
    besides = part.num_bytes - sum(chunk.num_bytes for chunk in part.chunks)
    return (f"at most {most} bytes besides the chunks", f"{besides} bytes") if besides > most else None


def check_alignment(records: Mapping[str, LedgerRecord], findings: Findings) -> None:
    """Compares the keys and row counts of a shard's groups with those of its first group."""
    groups = sorted(records)
    for group in groups[1:]:
        first, other = records[groups[0]], records[group]
        if (first.keys_sha256, first.num_rows) != (other.keys_sha256, other.num_rows):
            findings.add(
                Code.GROUPS_MISALIGNED,
                record_path(group, other.shard),
                expected=f"the rows of group {groups[0]!r}: {first.num_rows} rows, keys_sha256 {first.keys_sha256}",
                actual=f"{other.num_rows} rows, keys_sha256 {other.keys_sha256}",
            )


def group_of_part(name: str) -> str | None:
    """The group that a part's file name states; None if it is no part's name."""
    match = PART_NAME.fullmatch(name)
    return None if match is None else match["group"]

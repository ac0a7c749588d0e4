"""One shard: its records, parts, chunks, rejects, token counts and captions."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from schemas.dataset import Dataset
from schemas.inspection.dataset_view import raw_bytes, show_samples
from schemas.inspection.text import bytes_text, caption_text, line, pairs, ratio_text, table
from schemas.ledger import EncoderStats, LatentStats, LedgerRecord, record_path, rejects_path
from schemas.limits import MAX_REJECTS_BYTES
from schemas.rejects import Reject, load_rejects

_SHOWN_CHUNKS = 16
_SHOWN_REJECTS = 6


def show_shard(dataset: Dataset, groups: Sequence[str], shard: str, console: Console) -> None:
    """Prints everything about a shard's groups."""
    for number, group in enumerate(groups):
        record = dataset.record(group, shard)
        if number:
            console.print()
        console.print(pairs(f"Shard {shard}, group {group}", _facts(record)))
        _show_chunks(record, console)
        _show_rejects(read_rejects(dataset, record), console)
        show_samples(dataset, group, [shard], console)
    command = f"python -m schemas inspect {dataset.store.url} {shard} --row 0"
    console.print()
    console.print(line(f"One row: {command}", style="dim"))


def read_rejects(dataset: Dataset, record: LedgerRecord) -> list[Reject]:
    """A shard's rejects.

    Raises:
        MissingObjectError, DamagedDataError: They are not what was written.
    """
    if record.rejects is None:
        return []
    path = rejects_path(record.group, record.shard)
    return load_rejects(dataset.store.get(path, max_bytes=MAX_REJECTS_BYTES), where=dataset.store.locate(path))


def _facts(record: LedgerRecord) -> list[tuple[str, str | Text]]:
    source, writer, raw = record.source, record.writer, raw_bytes(record)
    facts: list[tuple[str, str | Text]] = [
        ("record", record_path(record.group, record.shard)),
        ("rows", f"{record.num_rows:,}: {record.num_encoded:,} encoded, {record.num_rows - record.num_encoded:,} null"),
        ("inputs", f"{record.num_inputs:,} = {record.num_encoded:,} encoded + {record.num_rejects:,} rejects"),
        ("stored", f"{bytes_text(record.num_bytes)}, {ratio_text(record.num_bytes, raw)} of {bytes_text(raw)} raw"),
        ("source", f"{source.url}, {bytes_text(source.num_bytes)}"),
        ("keys", record.keys_sha256),
        (
            "written",
            f"by run {writer.run_id}, attempt {writer.attempt}, {writer.host}, {writer.device}, {writer.seconds:.1f} s",
        ),
    ]
    facts += [("damage", f"{damage.code}: {damage.reason}") for damage in source.damage[:_SHOWN_REJECTS]]
    facts += [(name, _stats_text(stats)) for name, stats in record.stats.items()]
    return facts


def _stats_text(stats: EncoderStats | LatentStats) -> str:
    raw = f"{bytes_text(stats.raw_bytes)} raw"
    if isinstance(stats, EncoderStats):
        return f"{stats.num_tokens:,} tokens, {stats.num_truncated:,} truncated, {raw}"
    sizes = sorted(stats.num_images.items(), key=lambda size: -size[1])
    return ", ".join(f"{count:,} of {name} px" for name, count in sizes) + f"; {raw}"


def _show_chunks(record: LedgerRecord, console: Console) -> None:
    numbers = ("rows", "chunks", "bytes")
    parts = table("part", *numbers, title="Parts", right=numbers)
    for part in record.parts:
        parts.add_row(Text(part.name), f"{part.num_rows:,}", f"{len(part.chunks):,}", f"{part.num_bytes:,}")
    console.print()
    console.print(parts)
    columns = ("chunk", "part", "first row", "rows", "offset", "bytes")
    chunks = table(*columns, "xxh3_64", title="Chunks", right=columns)
    first_row = 0
    found = [(index, chunk) for index, part in enumerate(record.parts) for chunk in part.chunks]
    for number, (index, chunk) in enumerate(found):
        if number < _SHOWN_CHUNKS:
            cells = (number, index, first_row, chunk.num_rows, chunk.offset, chunk.num_bytes)
            chunks.add_row(*(f"{cell:,}" for cell in cells), chunk.xxh3_64)
        first_row += chunk.num_rows
    console.print()
    console.print(chunks)
    if len(found) > _SHOWN_CHUNKS:
        console.print(f"... and {len(found) - _SHOWN_CHUNKS:,} more chunks")


def _show_rejects(rejects: Sequence[Reject], console: Console) -> None:
    if not rejects:
        return
    made = table("key", "code", "reason", title="Rejects")
    for reject in rejects[:_SHOWN_REJECTS]:
        made.add_row(caption_text(reject.key, 60), Text(reject.code), caption_text(reject.reason))
    console.print()
    console.print(made)
    if len(rejects) > _SHOWN_REJECTS:
        console.print(f"... and {len(rejects) - _SHOWN_REJECTS:,} more rejects")

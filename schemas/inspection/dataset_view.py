"""A dataset at a glance: identity, layout, groups, shards, token counts, captions."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.dataset import Dataset
from schemas.identity import ENCODER_NAMES
from schemas.index import INDEX_PATH
from schemas.inspection.latents_view import identity_table, sample_images, show_images, sizes_table
from schemas.inspection.samples import SampledRows, sample_rows
from schemas.inspection.text import bytes_text, caption_text, histogram, line, pairs, ratio_text, table
from schemas.latent_manifest import LATENTS_GROUP
from schemas.ledger import LedgerRecord
from schemas.manifest import Manifest
from schemas.quarantine import read_quarantined

_SHOWN_SHARDS = 12
_SHOWN_CAPTIONS = 6
_SAMPLED_CHUNKS = 4


def show_dataset(dataset: Dataset, groups: Sequence[str], console: Console) -> None:
    """Prints an overview of `groups` of a dataset."""
    show_identity(dataset, console)
    names = sorted({shard for group in groups for shard in dataset.shards(group)})
    records = {group: [dataset.record(group, shard) for shard in dataset.shards(group)] for group in groups}
    if not names:
        console.print("\nNothing is committed yet.")
        return
    _show_groups(records, console)
    _show_shards(dataset, records, names, console)
    for group in groups:
        show_samples(dataset, group, dataset.shards(group), console)
    console.print()
    console.print(line(f"One shard: python -m schemas inspect {dataset.store.url} {names[0]}", style="dim"))


def show_identity(dataset: Dataset, console: Console) -> None:
    """Prints what the dataset is: layout, encoders, latents."""
    captions, latents, layout = dataset.manifests.captions, dataset.latents, dataset.layout
    first = captions or latents
    assert first is not None
    index = dataset.store.head(INDEX_PATH)
    snapshot = f"{INDEX_PATH} of {index.last_modified:%Y-%m-%d %H:%M} UTC" if index else "the ledger (no index yet)"
    facts = [
        ("format", f"encode-once {first.format_version}, container {layout.container}"),
        ("layout", f"chunks of {layout.chunk_rows:,} rows, parts of up to {bytes_text(layout.part_bytes)}"),
        ("made", f"{first.created.time} by run {first.created.run_id}"),
        ("identity", first.identity_sha256),
        ("read from", snapshot),
    ]
    console.print(pairs(dataset.store.url, facts))
    if captions is not None:
        console.print()
        console.print(_encoders(captions))
    if latents is not None:
        console.print()
        console.print(identity_table(latents))


def _encoders(manifest: Manifest) -> Table:
    encoders = [manifest.captions.encoder(name) for name in ENCODER_NAMES]
    made = table("", *ENCODER_NAMES, title="Encoders")
    for label, values in [
        ("source", [e.source + (f" @ {e.revision[:12]}" if e.revision else "") for e in encoders]),
        ("weights", [e.weights_sha256[:16] for e in encoders]),
        ("tokenizer", [f"{e.tokenizer} {e.tokenizer_sha256[:8]}" for e in encoders]),
        ("hidden", [f"{e.hidden_size}, {e.hidden_layer}" for e in encoders]),
        ("pooled", [str(e.pooled_size or "-") for e in encoders]),
        ("max tokens", [str(e.max_tokens) for e in encoders]),
        ("padding", [f"{e.padding}, {'masked' if e.attention_mask else 'no mask'}" for e in encoders]),
        ("dtypes", [f"{e.compute_dtype}, stored {e.storage_dtype}" for e in encoders]),
    ]:
        made.add_row(Text(label, style="dim"), *map(Text, values))
    return made


def _show_groups(records: dict[str, list[LedgerRecord]], console: Console) -> None:
    numbers = ("shards", "rows", "encoded", "rejects", "stored", "raw", "of raw", "a row")
    made = table("group", *numbers, title="Groups", right=numbers)
    for group, found in records.items():
        stored, raw = sum(record.num_bytes for record in found), sum(map(raw_bytes, found))
        encoded = sum(record.num_encoded for record in found)
        made.add_row(
            Text(group),
            f"{len(found):,}",
            f"{sum(record.num_rows for record in found):,}",
            f"{encoded:,}",
            f"{sum(record.num_rejects for record in found):,}",
            bytes_text(stored),
            bytes_text(raw),
            ratio_text(stored, raw),
            bytes_text(stored / encoded) if encoded else "-",
        )
    console.print()
    console.print(made)
    if records.get(LATENTS_GROUP):
        console.print()
        console.print(sizes_table(records[LATENTS_GROUP]))


def _show_shards(
    dataset: Dataset, records: dict[str, list[LedgerRecord]], names: Sequence[str], console: Console
) -> None:
    numbers = ("rows", "encoded", "rejects", "parts", "stored", "of raw")
    made = table("shard", "group", *numbers, title="Shards", right=numbers)
    shown = set(names[:_SHOWN_SHARDS])
    by_name = sorted((record for found in records.values() for record in found), key=lambda r: (r.shard, r.group))
    for record in by_name:
        if record.shard in shown:
            ratio = ratio_text(record.num_bytes, raw_bytes(record))
            counts = (record.num_rows, record.num_encoded, record.num_rejects, len(record.parts))
            stored = bytes_text(record.num_bytes)
            made.add_row(Text(record.shard), Text(record.group), *(f"{n:,}" for n in counts), stored, ratio)
    console.print()
    console.print(made)
    if len(names) > len(shown):
        console.print(f"... and {len(names) - len(shown):,} more shards")
    damaged = [record for record in by_name if record.source.damage]
    if damaged:
        console.print(line(f"{len(damaged):,} records are of tars that could not be read whole, as {damaged[0].shard}"))
    quarantined = [name for name in read_quarantined(dataset.store) if name[0] in records]
    if quarantined:
        group, shard = min(quarantined)
        console.print(line(f"{len(quarantined):,} quarantined, as {shard} ({group}): see quarantine/", style="bold"))


def raw_bytes(record: LedgerRecord) -> int:
    """Bytes of a record's tensors before compression."""
    return sum(stats.raw_bytes for stats in record.stats.values())


def show_samples(dataset: Dataset, group: str, shards: Sequence[str], console: Console) -> None:
    """Prints what a few chunks of some shards of a group hold."""
    if group == LATENTS_GROUP:
        show_images(sample_images(dataset, shards, _SAMPLED_CHUNKS), console)
    else:
        _show_captions(dataset.manifest, group, sample_rows(dataset, group, shards, _SAMPLED_CHUNKS), console)


def _show_captions(manifest: Manifest, group: str, rows: SampledRows, console: Console) -> None:
    """Prints token counts and captions of sampled rows of a group."""
    if not rows.keys:
        return
    console.print()
    console.print(line(f"Group {group}: {len(rows.keys):,} rows of {rows.num_chunks} sampled chunks", style="bold"))
    for name in ENCODER_NAMES:
        if rows.num_tokens[name]:
            mean = sum(rows.num_tokens[name]) / len(rows.num_tokens[name])
            title = f"{name}: {mean:.1f} tokens a caption, {rows.num_truncated[name]:,} truncated"
            console.print()
            console.print(histogram(rows.num_tokens[name], manifest.captions.encoder(name).max_tokens, title))
    made = table("key", "caption", title="Captions")
    for index in rows.spread(_SHOWN_CAPTIONS):
        shown = caption_text(rows.captions[index])
        made.add_row(caption_text(rows.keys[index], 60), shown if rows.encoded[index] else _rejected(shown))
    console.print()
    console.print(made)


def _rejected(caption: Text) -> Text:
    return Text("null row, see rejects: ", style="dim") + caption

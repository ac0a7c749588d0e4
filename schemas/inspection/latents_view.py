"""The image latents of a dataset: how they were made, which sizes occur, sampled images, one row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.dataset import Dataset, LatentRow
from schemas.identity import LatentIdentity
from schemas.inspection.samples import chosen_chunks, spread
from schemas.inspection.text import bytes_text, caption_text, pairs, table
from schemas.latent_manifest import LATENTS_GROUP, LatentManifest
from schemas.ledger import LatentStats, LedgerRecord

_SHOWN_BUCKETS = 12
_SHOWN_IMAGES = 6


def identity_table(manifest: LatentManifest) -> Table:
    """How the latents were made."""
    identity = manifest.latents
    channels, scale = identity.num_channels, identity.downscale_factor
    revision = f" @ {identity.revision[:12]}" if identity.revision else ""
    facts = [("kind", identity.kind), ("source", identity.source + revision)]
    if identity.weights_sha256 is not None:
        facts.append(("weights", identity.weights_sha256[:16]))
        facts.append(
            ("stored", f"(z - {identity.shift_factor}) * {identity.scaling_factor}, z the {identity.posterior}")
        )
    facts += [
        ("tensor", f"[{channels}, height / {scale}, width / {scale}]" if scale > 1 else f"[{channels}, height, width]"),
        ("images", f"{identity.resolution} px, {identity.crop}, {identity.resample}"),
        ("buckets", _buckets_text(identity)),
        ("dtypes", f"{identity.compute_dtype}, stored {identity.storage_dtype}"),
        ("identity", manifest.identity_sha256),
    ]
    return pairs("Latents", facts)


def _buckets_text(identity: LatentIdentity) -> str:
    shown = ", ".join(f"{height}x{width}" for height, width in identity.buckets[:_SHOWN_BUCKETS])
    hidden = len(identity.buckets) - _SHOWN_BUCKETS
    return shown + (f", ... and {hidden} more" if hidden > 0 else "")


def sizes_table(records: Sequence[LedgerRecord]) -> Table:
    """How many images of each size the records count, the most frequent first."""
    counts: Counter[str] = Counter()
    for record in records:
        for stats in record.stats.values():
            if isinstance(stats, LatentStats):
                counts.update(stats.num_images)
    made = table("size", "images", "share", title="Sizes", right=("images", "share"))
    for name, count in counts.most_common(_SHOWN_BUCKETS):
        made.add_row(f"{name} px", f"{count:,}", f"{count / counts.total():.3f}")
    if len(counts) > _SHOWN_BUCKETS:
        rest = sum(count for _, count in counts.most_common()[_SHOWN_BUCKETS:])
        made.add_row(f"{len(counts) - _SHOWN_BUCKETS} more", f"{rest:,}", f"{rest / counts.total():.3f}")
    return made


@dataclass
class SampledImages:
    """Rows of some chunks of the latents.

    Attributes:
        num_chunks: Chunks read.
        rows: All rows of them.
    """

    num_chunks: int = 0
    rows: list[LatentRow] = field(default_factory=list)


def sample_images(dataset: Dataset, shards: Sequence[str], max_chunks: int) -> SampledImages:
    """Reads at most `max_chunks` chunks, spread over the shards, then over their chunks."""
    found = SampledImages()
    for shard, chunk in chosen_chunks(dataset, LATENTS_GROUP, shards, max_chunks):
        assert dataset.latents is not None
        batch = dataset.read_chunk(LATENTS_GROUP, shard, chunk)
        found.num_chunks += 1
        found.rows += [LatentRow(batch, index, dataset.latents) for index in range(batch.num_rows)]
    return found


def show_images(images: SampledImages, console: Console) -> None:
    """Prints some of the sampled images."""
    if not images.rows:
        return
    title = f"Group {LATENTS_GROUP}: {len(images.rows):,} rows of {images.num_chunks} sampled chunks"
    console.print()
    console.print(Text(title, style="bold"))
    made = table("key", "original", "crop at", "size", "tensor", title="Images")
    for index in spread(len(images.rows), _SHOWN_IMAGES):
        row = images.rows[index]
        key = caption_text(row.key, 60)
        if row.is_null:
            made.add_row(key, Text("null row, see rejects", style="dim"))
            continue
        values = row.latents
        tensor = f"{' x '.join(map(str, values.shape))} {values.dtype}, {bytes_text(values.nbytes)}"
        made.add_row(key, _size(row.original_size), f"{row.crop[0]}, {row.crop[1]}", _size(row.size), tensor)
    console.print()
    console.print(made)


def image_facts(row: LatentRow) -> list[tuple[str, str | Text]]:
    """What is stored of an image beside its tensor."""
    top, left = row.crop
    return [
        ("original", f"{_size(row.original_size)} (height x width)"),
        ("crop", f"{_size(row.size)} at top {top}, left {left} of the resized image"),
    ]


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} px"

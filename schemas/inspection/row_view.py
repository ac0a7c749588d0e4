"""One row: its caption and token counts, or its image's sizes, and every tensor's shape, range and first values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.text import Text

from schemas.dataset import Dataset, EncodedCaption, LatentRow, Row
from schemas.errors import ConfigError
from schemas.identity import ENCODER_NAMES
from schemas.inspection.latents_view import image_facts
from schemas.inspection.shard_view import read_rejects
from schemas.inspection.text import caption_text, pairs, table
from schemas.latent_manifest import LATENTS_GROUP

_SHOWN_VALUES = 4
_SHOWN_CHARACTERS = 2000
_TENSORS = [field.name for field in fields(EncodedCaption) if field.name in ("hidden", "pooled", "eos")]


def show_row(dataset: Dataset, group: str, shard: str, row: int, console: Console) -> None:
    """Prints one row.

    Args:
        dataset: The dataset.
        group: Column group.
        shard: Shard name.
        row: Row of the shard, from 0.
        console: Where to print.

    Raises:
        ConfigError: The shard has fewer rows.
    """
    record = dataset.record(group, shard)
    if not 0 <= row < record.num_rows:
        raise ConfigError(
            "row-not-there",
            where=f"--row {row}",
            expected=f"0 to {record.num_rows - 1}" if record.num_rows else "a shard with rows",
            actual=f"shard {shard!r} has {record.num_rows} rows in group {group!r}",
            remedy="choose a row that is there",
        )
    chunk, index = divmod(row, dataset.layout.chunk_rows)
    batch = dataset.read_chunk(group, shard, chunk)
    found: Row | LatentRow
    if group == LATENTS_GROUP:
        assert dataset.latents is not None
        found = LatentRow(batch, index, dataset.latents)
    else:
        found = Row(batch, index, dataset.manifest)
    facts: list[tuple[str, str | Text]] = [("key", caption_text(found.key))]
    if isinstance(found, Row):
        facts.append(("caption", caption_text(found.caption, _SHOWN_CHARACTERS)))
    facts.append(("chunk", Text(f"{chunk}, row {index} of it")))
    if found.is_null:
        reasons = [f"{r.code}: {r.reason}" for r in read_rejects(dataset, record) if r.has_row and r.key == found.key]
        facts.append(("null row", Text(reasons[0] if reasons else "no reason in the rejects: run validate")))
    else:
        facts += image_facts(found) if isinstance(found, LatentRow) else _token_facts(found)
    console.print(pairs(f"Shard {shard}, group {group}, row {row}", facts))
    if not found.is_null:
        console.print()
        _show_tensors(found, console)


def _token_facts(row: Row) -> list[tuple[str, str | Text]]:
    facts: list[tuple[str, str | Text]] = []
    for name in ENCODER_NAMES:
        cut = ", truncated" if row[name].truncated else ""
        facts.append((name, Text(f"{row[name].num_tokens} tokens{cut}")))
    return facts


def _show_tensors(row: Row | LatentRow, console: Console) -> None:
    numbers = ("min", "max", "mean", "std")
    made = table("tensor", "shape", "dtype", *numbers, "first values", right=numbers)
    for name, values in _tensors(row):
        made.add_row(name, *_tensor_cells(values))
    console.print(made)


def _tensors(row: Row | LatentRow) -> Iterator[tuple[str, npt.NDArray[np.generic]]]:
    if isinstance(row, LatentRow):
        yield "latents", row.latents
        return
    for encoder in ENCODER_NAMES:
        for name in _TENSORS:
            values = getattr(row[encoder], name)
            if values is not None:
                yield f"{encoder}.{name}", values


def _tensor_cells(values: npt.NDArray[np.generic]) -> list[str]:
    wide = values.astype(np.float64)
    shape = " x ".join(map(str, values.shape))
    statistics = (wide.min(), wide.max(), wide.mean(), wide.std()) if wide.size else (float("nan"),) * 4
    first = ", ".join(f"{value:.3g}" for value in wide.reshape(-1)[:_SHOWN_VALUES])
    return [shape, str(values.dtype), *(f"{value:.3g}" for value in statistics), first]

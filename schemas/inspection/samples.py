"""A few chunks of a dataset, to show what its rows are like without reading all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from schemas.dataset import Dataset
from schemas.identity import ENCODER_NAMES


@dataclass
class SampledRows:
    """Rows of some chunks.

    Attributes:
        num_chunks: Chunks read.
        keys: [rows].
        captions: [rows]; None for a caption that could not be read.
        encoded: [rows].
        num_tokens: Per encoder, of every encoded row.
        num_truncated: Per encoder.
    """

    num_chunks: int = 0
    keys: list[str] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    encoded: list[bool] = field(default_factory=list)
    num_tokens: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in ENCODER_NAMES})
    num_truncated: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENCODER_NAMES, 0))

    def add(self, dataset: Dataset, group: str, shard: str, chunk: int) -> None:
        """Reads one chunk."""
        batch = dataset.read_chunk(group, shard, chunk)
        self.num_chunks += 1
        self.keys += batch.column("key").to_pylist()
        self.captions += batch.column("caption").to_pylist()
        self.encoded += batch.column(ENCODER_NAMES[0]).is_valid().to_pylist()
        for name in ENCODER_NAMES:
            column = batch.column(name)
            valid = column.is_valid().to_numpy(zero_copy_only=False)
            self.num_tokens[name] += column.field("num_tokens").to_numpy()[valid].tolist()
            self.num_truncated[name] += int(column.field("truncated").to_numpy(zero_copy_only=False)[valid].sum())

    def spread(self, count: int) -> list[int]:
        """Indices of up to `count` rows spread over all of them."""
        return spread(len(self.keys), count)


def spread(length: int, count: int) -> list[int]:
    """Up to `count` indices spread over `length`."""
    return sorted(set(np.linspace(0, length - 1, count).astype(int).tolist())) if length else []


def sample_rows(dataset: Dataset, group: str, shards: Sequence[str], max_chunks: int) -> SampledRows:
    """Reads at most `max_chunks` chunks, spread over the shards, then over their chunks."""
    rows = SampledRows()
    for shard, chunk in chosen_chunks(dataset, group, shards, max_chunks):
        rows.add(dataset, group, shard, chunk)
    return rows


def chosen_chunks(dataset: Dataset, group: str, shards: Sequence[str], max_chunks: int) -> Iterator[tuple[str, int]]:
    """At most `max_chunks` (shard, chunk), spread over the shards, then over their chunks."""
    filled = [shard for shard in shards if dataset.record(group, shard).num_rows]
    chosen = spread(len(filled), max_chunks)
    for index in chosen:
        num_chunks = len(list(dataset.record(group, filled[index]).chunks()))
        for chunk in spread(num_chunks, max(1, max_chunks // len(chosen))):
            yield filled[index], chunk

"""Rows of a dataset drawn at random, and read with as few chunks as they lie in, one chunk at a time."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.identity import ENCODER_NAMES
from schemas.row import EncodedCaption, Row


@dataclass(frozen=True)
class SampledRow:
    """A row that was drawn.

    Attributes:
        group: Column group.
        shard: Shard name.
        index: Of the row in its shard, from 0.
        key: The sample's key.
        caption: Its caption.
        stored: What the dataset has of it, by encoder name.
        place: Index of the row in its chunk.
        neighbours: Captions of the whole chunk, None where a row is null.
    """

    group: str
    shard: str
    index: int
    key: str
    caption: str
    stored: Mapping[str, EncodedCaption] = field(repr=False)
    place: int
    neighbours: Sequence[str | None] = field(repr=False)

    @property
    def name(self) -> str:
        """For people: group, shard, row and key."""
        return f"{self.group} {self.shard} row {self.index} ({self.key})"


def sample_rows(dataset: Dataset, num_rows: int, seed: int) -> list[SampledRow]:
    """Draws rows uniformly over all caption groups and shards, without putting back; null rows are not drawn.

    The same dataset, number and seed give the same rows. In memory are the rows drawn, and a chunk at a time.

    Args:
        dataset: Opened.
        num_rows: How many; all there are, if they are fewer.
        seed: Of the draw.

    Returns:
        By group, shard and index.

    Raises:
        ConfigError: The dataset has no row with a caption.
        ContractError, DamagedDataError, StorageError: A chunk cannot be read.
    """
    shards = _Shards.of(dataset)
    random, drawn = np.random.default_rng(seed), set[int]()
    found: list[SampledRow] = []
    # Which rows are null stands in the chunks alone: what turns out to be null is drawn again.
    while len(found) < num_rows and len(drawn) < shards.num_rows:
        numbers = _draw(random, shards.num_rows, drawn, num_rows - len(found))
        drawn.update(numbers)
        found += _read(dataset, shards, sorted(numbers))
    if not found:
        raise ConfigError(
            "nothing-to-verify",
            where=dataset.store.url,
            expected="a dataset with encoded captions",
            actual=f"{shards.num_rows} rows in groups {list(dataset.caption_groups)}, none of them encoded",
            remedy="encode captions into it first; `python -m schemas inspect` shows what there is",
        )
    return sorted(found, key=lambda row: (row.group, row.shard, row.index))


@dataclass(frozen=True)
class _Shards:
    """Every shard of every caption group that has encoded rows.

    Attributes:
        names: (group, shard).
        stops: Number of rows up to and with each.
    """

    names: Sequence[tuple[str, str]]
    stops: Sequence[int]

    @classmethod
    def of(cls, dataset: Dataset) -> _Shards:
        names, sizes = [], []
        for group in dataset.caption_groups:
            for shard in dataset.shards(group):
                body = dataset.record_body(group, shard)
                if body["num_encoded"]:
                    names.append((group, shard))
                    sizes.append(int(body["num_rows"]))
        return cls(names, list(itertools.accumulate(sizes)))

    @property
    def num_rows(self) -> int:
        return self.stops[-1] if self.stops else 0

    def locate(self, number: int) -> tuple[str, str, int]:
        """Group, shard and index of a row, by its number among all."""
        at = bisect.bisect_right(self.stops, number)
        return *self.names[at], number - (self.stops[at - 1] if at else 0)


def _draw(random: np.random.Generator, total: int, drawn: set[int], count: int) -> set[int]:
    """Numbers below `total` that were not drawn yet; all that are left, if these are not more."""
    if count >= total - len(drawn):
        return set(range(total)) - drawn
    new: set[int] = set()
    while len(new) < count:
        number = int(random.integers(total))
        if number not in drawn:
            new.add(number)
    return new


def _read(dataset: Dataset, shards: _Shards, numbers: Sequence[int]) -> Iterator[SampledRow]:
    step = dataset.layout.chunk_rows
    places = [shards.locate(number) for number in numbers]
    for (group, shard, chunk), rows in itertools.groupby(places, key=lambda at: (at[0], at[1], at[2] // step)):
        batch = dataset.read_chunk(group, shard, chunk)
        captions = batch.column("caption").to_pylist()
        valid = batch.column(ENCODER_NAMES[0]).is_valid().to_pylist()
        neighbours = [caption if there else None for caption, there in zip(captions, valid, strict=True)]
        for _, _, index in rows:
            row, caption = Row(batch, index % step, dataset.manifest), neighbours[index % step]
            if caption is not None:
                stored: dict[str, EncodedCaption] = {name: row[name] for name in ENCODER_NAMES}
                yield SampledRow(group, shard, index, row.key, caption, stored, index % step, neighbours)

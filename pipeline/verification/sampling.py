"""Draws rows of a dataset at random and reads them, each chunk once and one chunk at a time."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.identity import ENCODER_NAMES
from schemas.latent_manifest import LATENTS_GROUP
from schemas.row import EncodedCaption, LatentRow, Row


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


@dataclass(frozen=True)
class SampledLatents:
    """A row of the group `latents` that was drawn.

    Attributes:
        group: "latents".
        shard: Shard name.
        index: Of the row in its shard, from 0.
        key: The sample's key.
        original_size: Height and width of the source image, px.
        crop: Top and left edge of the crop in the resized image, px.
        size: Height and width of the bucket, px.
        stored: [C, height / f, width / f] in the storage dtype.
    """

    group: str
    shard: str
    index: int
    key: str
    original_size: tuple[int, int]
    crop: tuple[int, int]
    size: tuple[int, int]
    stored: npt.NDArray[np.generic] = field(repr=False)

    @property
    def name(self) -> str:
        """For people: shard, row and key."""
        return f"{self.shard} row {self.index} ({self.key})"


class _Drawn(Protocol):
    @property
    def group(self) -> str: ...
    @property
    def shard(self) -> str: ...
    @property
    def index(self) -> int: ...


T = TypeVar("T", bound=_Drawn)
Read = Callable[[Dataset, str, str, pa.RecordBatch, Sequence[int]], Iterable[T]]
"""From dataset, group, shard, a chunk, and indices in the shard of some of its rows, to those that are not null."""


def sample_rows(dataset: Dataset, groups: Sequence[str], num_rows: int, seed: int) -> list[SampledRow]:
    """Draws rows uniformly over some caption groups and all shards, without putting back; null rows are not drawn.

    The same dataset, groups, number and seed give the same rows. In memory are the rows drawn, and a chunk at a time.

    Args:
        dataset: Opened.
        groups: Caption groups.
        num_rows: How many; all there are, if they are fewer.
        seed: Of the draw.

    Returns:
        By group, shard and index.

    Raises:
        ConfigError: No row of these groups is encoded.
        ContractError, DamagedDataError, StorageError: A chunk cannot be read.
    """
    return _sample(dataset, groups, num_rows, seed, _read_captions)


def sample_latents(dataset: Dataset, num_rows: int, seed: int) -> list[SampledLatents]:
    """As `sample_rows`, of the group `latents`."""
    return _sample(dataset, [LATENTS_GROUP], num_rows, seed, _read_latents)


def _sample(dataset: Dataset, groups: Sequence[str], num_rows: int, seed: int, read: Read[T]) -> list[T]:
    shards = _Shards.of(dataset, groups)
    random, drawn = np.random.default_rng(seed), set[int]()
    found: list[T] = []
    # Which rows are null stands in the chunks alone: what turns out to be null is drawn again.
    while len(found) < num_rows and len(drawn) < shards.num_rows:
        numbers = _draw(random, shards.num_rows, drawn, num_rows - len(found))
        drawn.update(numbers)
        for group, shard, chunk, indices in _chunks(shards, sorted(numbers), dataset.layout.chunk_rows):
            found += read(dataset, group, shard, dataset.read_chunk(group, shard, chunk), indices)
    if not found:
        raise ConfigError(
            "nothing-to-verify",
            where=dataset.store.url,
            expected=f"encoded rows in {', '.join(groups) or 'some column group'}",
            actual=f"{shards.num_rows} rows, none of them encoded",
            remedy="encode something into it first; `python -m schemas inspect` shows what there is",
        )
    return sorted(found, key=lambda row: (row.group, row.shard, row.index))


@dataclass(frozen=True)
class _Shards:
    """Every shard of some groups that has encoded rows.

    Attributes:
        names: (group, shard).
        stops: Number of rows up to and with each.
    """

    names: Sequence[tuple[str, str]]
    stops: Sequence[int]

    @classmethod
    def of(cls, dataset: Dataset, groups: Iterable[str]) -> _Shards:
        names, sizes = [], []
        for group in groups:
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


def _chunks(shards: _Shards, numbers: Sequence[int], step: int) -> Iterator[tuple[str, str, int, list[int]]]:
    """Group, shard and number of every chunk that holds some of the rows, and these rows' indices in the shard."""
    places = [shards.locate(number) for number in numbers]
    for (group, shard, chunk), rows in itertools.groupby(places, key=lambda at: (at[0], at[1], at[2] // step)):
        yield group, shard, chunk, [index for _, _, index in rows]


def _read_captions(
    dataset: Dataset, group: str, shard: str, batch: pa.RecordBatch, indices: Sequence[int]
) -> Iterator[SampledRow]:
    step, captions = dataset.layout.chunk_rows, batch.column("caption").to_pylist()
    valid = batch.column(ENCODER_NAMES[0]).is_valid().to_pylist()
    neighbours = [caption if there else None for caption, there in zip(captions, valid, strict=True)]
    for index in indices:
        row, caption = Row(batch, index % step, dataset.manifest), neighbours[index % step]
        if caption is not None:
            stored: dict[str, EncodedCaption] = {name: row[name] for name in ENCODER_NAMES}
            yield SampledRow(group, shard, index, row.key, caption, stored, index % step, neighbours)


def _read_latents(
    dataset: Dataset, group: str, shard: str, batch: pa.RecordBatch, indices: Sequence[int]
) -> Iterator[SampledLatents]:
    assert dataset.latents is not None
    for index in indices:
        row = LatentRow(batch, index % dataset.layout.chunk_rows, dataset.latents)
        if not row.is_null:
            yield SampledLatents(group, shard, index, row.key, row.original_size, row.crop, row.size, row.latents)

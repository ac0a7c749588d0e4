"""What the encoding of a shard asks of the samples it reads, and of each kind of group it writes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Protocol

import pyarrow as pa

from pipeline.counters import Counters
from schemas.ledger import EncoderStats, LatentStats
from schemas.manifest import Layout
from schemas.parts import LazyBatch
from schemas.rejects import Reject


class Samples(Protocol):
    """The samples of a shard: what a tar was found to hold, or a list made otherwise."""

    @property
    def keys(self) -> Sequence[str]:
        """Row order."""

    @property
    def damage(self) -> Sequence[Reject]:
        """Damage of the source itself; empty if it is whole."""

    def num_inputs(self, group: str) -> int:
        """All rows of the group, and all inputs without a row."""

    def rejects_of(self, group: str) -> list[Reject]:
        """Damage, inputs without a row, and rows that have nothing to encode."""

    def captions(self, group: str, start: int, stop: int) -> list[str | None]:
        """The captions of rows `start` to `stop`; None where there is none."""


class GroupPass(Protocol):
    """One group of one shard while it is encoded. The figures count when all batches were taken."""

    num_encoded: int
    rejects: list[Reject]
    """Inputs that could be read but not encoded; their rows are null."""

    def batches(self, schema: pa.Schema, count: Callable[[Counters], None]) -> Generator[LazyBatch, None, None]:
        """The group's chunks in row order; `count` is told what was done meanwhile."""

    def stats(self) -> Mapping[str, EncoderStats | LatentStats]:
        """The record's statistics."""


class GroupEncoder(Protocol):
    """Encodes the groups of one kind: captions, or latents."""

    @property
    def identity_sha256(self) -> str:
        """Digest of the manifest of this kind; every ledger record carries it."""

    @property
    def layout(self) -> Layout:
        """The dataset's."""

    def schema(self, group: str, shard: str) -> pa.Schema:
        """Of the group's parts."""

    def begin(self, samples: Samples, group: str) -> GroupPass:
        """Encodes a shard's group, as its batches are taken."""

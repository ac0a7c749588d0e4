"""Ledger records: a shard's group exists when, and only when, its record does."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from schemas.documents import seal, unseal
from schemas.errors import ContractError, EncodeOnceError
from schemas.limits import MAX_CHUNK_BYTES, MAX_CHUNK_ROWS, MAX_SHARD_ROWS
from schemas.object_paths import leads_outside
from schemas.rejects import Reject
from schemas.storage import Store

LEDGER_FOLDER = "ledger"
SHARDS_FOLDER = "shards"
REJECTS_FOLDER = "rejects"

PART_NAME = re.compile(r"(?P<group>.+)-\d{5,}-[0-9a-f]{16}\.(arrow|tar)")
"""The file name of a part: group, number, digest, suffix of the container."""


def record_path(group: str, shard: str) -> str:
    """Where a shard's commit record for a group is."""
    return f"{LEDGER_FOLDER}/{group}/{shard}.json"


def rejects_path(group: str, shard: str) -> str:
    """Where a shard's rejects for a group are; absent if there are none."""
    return f"{REJECTS_FOLDER}/{group}/{shard}.jsonl"


def part_path(shard: str, part_name: str) -> str:
    """Where a part file is."""
    return f"{SHARDS_FOLDER}/{shard}/{part_name}"


def keys_sha256(keys: Iterable[str]) -> str:
    """Digest of a shard's key sequence: each key's UTF-8 length (8 bytes, little-endian), then its bytes."""
    hasher = hashlib.sha256()
    for key in keys:
        data = key.encode()
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Chunk(_Model):
    """One run of rows, fetched with one ranged read."""

    offset: int = Field(ge=0, description="first byte in the part")
    num_bytes: int = Field(gt=0, le=MAX_CHUNK_BYTES)
    num_rows: int = Field(gt=0, le=MAX_CHUNK_ROWS)
    xxh3_64: str = Field(pattern="^[0-9a-f]{16}$", description="checksum of the chunk's bytes")


class Part(_Model):
    """One file of a shard's group."""

    name: str = Field(description="<group>-<part>-<sha256[:16]> and the container's suffix")
    num_bytes: int = Field(gt=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    chunks: tuple[Chunk, ...]

    @field_validator("name")
    @classmethod
    def _is_a_file_name(cls, name: str) -> str:
        if "/" in name or leads_outside(name):
            raise ValueError(f"{name!r} is no file name")
        return name

    @property
    def num_rows(self) -> int:
        """Rows of all its chunks."""
        return sum(chunk.num_rows for chunk in self.chunks)


class Source(_Model):
    """The tar a shard was made from, as it was when it was read."""

    url: str
    num_bytes: int
    e_tag: str | None
    damage: tuple[Reject, ...] = Field(description="what could not be read of the tar; empty if it was whole")


class EncoderStats(_Model):
    """Totals over a shard's encoded rows."""

    num_tokens: int
    num_truncated: int = Field(description="captions that lost tokens to max_tokens")
    raw_bytes: int = Field(description="bytes of hidden, pooled and eos before compression")


class LatentStats(_Model):
    """Totals over the encoded rows of the group `latents`."""

    num_images: dict[str, int] = Field(description="images of each bucket that occurs, by `<height>x<width>` in px")
    raw_bytes: int = Field(description="bytes of the latents before compression")


class RejectsObject(_Model):
    """The rejects file, if the shard has rejects."""

    num_bytes: int
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Writer(_Model):
    """Who wrote the shard; recorded, never compared."""

    run_id: str
    attempt: int
    host: str
    device: str
    seconds: float
    versions: dict[str, str]


class LedgerRecord(_Model):
    """The commit of one shard's group. `num_inputs == num_encoded + num_rejects`, always."""

    format_version: int
    group: str
    shard: str
    identity_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    keys_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="proves that groups are row-aligned")
    num_inputs: int = Field(ge=0, description="inputs found in the tar for this group")
    num_rows: int = Field(ge=0, le=MAX_SHARD_ROWS, description="rows in the parts, null rows included")
    num_encoded: int = Field(ge=0, description="rows that are not null")
    num_rejects: int = Field(ge=0, description="lines of the rejects file")
    source: Source
    parts: tuple[Part, ...]
    rejects: RejectsObject | None
    stats: Mapping[str, EncoderStats | LatentStats] = Field(description="per encoder; `latents` alone for that group")
    writer: Writer

    @field_validator("group", "shard")
    @classmethod
    def _is_inside(cls, name: str) -> str:
        if leads_outside(name):
            raise ValueError(f"{name!r} leads out of the dataset")
        return name

    @model_validator(mode="after")
    def _counts_add_up(self) -> LedgerRecord:
        if self.num_inputs != self.num_encoded + self.num_rejects:
            raise ValueError(f"{self.num_inputs} inputs != {self.num_encoded} encoded + {self.num_rejects} rejects")
        if self.num_rows != sum(part.num_rows for part in self.parts):
            raise ValueError(f"{self.num_rows} rows, but the chunks have {sum(part.num_rows for part in self.parts)}")
        if self.num_encoded > self.num_rows:
            raise ValueError(f"{self.num_encoded} encoded rows of {self.num_rows}")
        return self

    @property
    def num_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.num_bytes for part in self.parts)

    def chunks(self) -> Iterator[tuple[Part, Chunk]]:
        """Every chunk with its part, in row order."""
        for part in self.parts:
            for chunk in part.chunks:
                yield part, chunk

    def dump(self) -> bytes:
        """The bytes of the record's object."""
        return seal(self.model_dump(mode="json"))


def load_record(data: bytes, *, where: str) -> LedgerRecord:
    """Reads a ledger record.

    Raises:
        DamagedDataError: The bytes are not what was written.
        ContractError: The document is whole but not a ledger record of this version.
    """
    return _validated(unseal(data, where=where), where)


def _validated(body: dict[str, Any], where: str) -> LedgerRecord:
    with valid_record(where):
        return LedgerRecord.model_validate(body)


@contextmanager
def valid_record(where: str) -> Iterator[None]:
    """While a record's fields are used that may be any: what goes wrong is the record's fault.

    Raises:
        ContractError: Code `ledger-record-invalid`.
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError, AttributeError) as error:
        if isinstance(error, EncodeOnceError):
            raise
        raise ContractError(
            "ledger-record-invalid",
            where=where,
            expected="the fields and sums of SPEC.md, LedgerRecord",
            actual=str(error).replace("\n", " ")[:500],
            remedy="delete the record and run the same encode command again",
        ) from error


def read_record(store: Store, group: str, shard: str) -> LedgerRecord | None:
    """A shard's record for a group, or None if it is not committed.

    Raises:
        DamagedDataError, ContractError: As `load_record`.
    """
    path = record_path(group, shard)
    if store.head(path) is None:
        return None
    return load_record(store.get(path), where=store.locate(path))


def list_committed(store: Store) -> dict[str, set[str]]:
    """The committed shards of each group, from the names of the ledger's objects alone."""
    committed: dict[str, set[str]] = {}
    for info in store.list(LEDGER_FOLDER):
        _, group, *rest = info.path.split("/")
        if rest and rest[-1].endswith(".json"):
            committed.setdefault(group, set()).add("/".join(rest).removesuffix(".json"))
    return committed

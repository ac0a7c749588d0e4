"""Shards that were given up: `quarantine/<group>/<shard>.json`, with the reason of every attempt.

A quarantined shard has no ledger record. It is left alone by later runs until its tar changes or a run is told to
retry.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.documents import seal, unseal
from schemas.errors import ContractError
from schemas.storage import Store

QUARANTINE_FOLDER = "quarantine"


class Quarantined(BaseModel):
    """Why one group of one shard was given up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str
    shard: str
    source_url: str
    source_bytes: int
    source_e_tag: str | None
    attempts: int = Field(ge=1)
    reasons: tuple[str, ...] = Field(description="one per attempt, oldest first")
    run_id: str
    time: str = Field(description="UTC, ISO 8601")


def quarantine_path(group: str, shard: str) -> str:
    """Where a given-up shard is noted."""
    return f"{QUARANTINE_FOLDER}/{group}/{shard}.json"


def write_quarantined(store: Store, entry: Quarantined) -> None:
    """Notes that a shard's group was given up, replacing an older note."""
    store.replace(quarantine_path(entry.group, entry.shard), seal(entry.model_dump(mode="json")))


def read_quarantined(store: Store) -> dict[tuple[str, str], Quarantined]:
    """Every note, by (group, shard).

    Raises:
        DamagedDataError, ContractError: A note is not what was written.
    """
    found = {}
    for info in store.list(QUARANTINE_FOLDER):
        if not info.path.endswith(".json"):
            continue
        where = store.locate(info.path)
        try:
            entry = Quarantined.model_validate(unseal(store.get(info.path), where=where))
        except ValidationError as error:
            raise ContractError(
                "quarantine-invalid",
                where=where,
                expected="the fields of a quarantine note",
                actual=str(error).replace("\n", " ")[:300],
                remedy="delete the note: the shard is then tried again",
            ) from error
        found[entry.group, entry.shard] = entry
    return found

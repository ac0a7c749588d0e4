"""Inputs that could not be encoded, each with its key and the reason: `rejects/<group>/<shard>.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from schemas.errors import DamagedDataError
from schemas.limits import MAX_REJECTS


class Reject(BaseModel):
    """One input that has no encoding. Codes are listed in SPEC.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str | None = Field(description="the sample's key; None where damage hides it")
    code: str = Field(description="stable reason, kebab-case")
    reason: str = Field(description="one sentence for a person")
    member: str | None = Field(default=None, description="tar member at fault")
    offset: int | None = Field(default=None, description="byte offset in the tar")
    has_row: bool = Field(default=True, description="whether a null row stands for it in the shard")


def dump_rejects(rejects: Iterable[Reject]) -> bytes:
    """One JSON object a line."""
    lines = (json.dumps(reject.model_dump(), ensure_ascii=False, sort_keys=True) for reject in rejects)
    return "".join(line + "\n" for line in lines).encode()


def load_rejects(data: bytes, *, where: str) -> list[Reject]:
    """Reads what `dump_rejects` wrote.

    Raises:
        DamagedDataError: A line is not a reject.
    """
    try:
        num_lines = data.count(b"\n")
        if num_lines > MAX_REJECTS:
            raise ValueError(f"{num_lines} lines, more than {MAX_REJECTS}")
        return [Reject.model_validate_json(line) for line in data.decode().split("\n") if line]
    except ValueError as error:  # bytes that are no text, and what pydantic raises, are of this kind
        raise DamagedDataError(
            "rejects-unreadable",
            where=where,
            expected="one reject a line, as SPEC.md describes",
            actual=str(error).replace("\n", " ")[:300],
            remedy="restore the object, or delete the shard's ledger record and encode it again",
        ) from error

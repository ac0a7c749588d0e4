"""How much a tar may hold, since the keys of its samples and its rejects are in memory while it is encoded."""

from __future__ import annotations

from schemas.errors import DamagedDataError
from schemas.limits import MAX_REJECTS, MAX_SHARD_ROWS


def require_rows(num_rows: int, where: str) -> None:
    """Refuses a tar of more samples than a shard may have.

    Raises:
        DamagedDataError: Code `tar-too-many`.
    """
    if num_rows > MAX_SHARD_ROWS:
        raise _too_many(where, MAX_SHARD_ROWS, "samples")


def require_rejects(num_rejects: int, where: str) -> None:
    """Refuses a tar of which more members and rows cannot be encoded than a rejects file lists.

    Raises:
        DamagedDataError: Code `tar-too-many`.
    """
    if num_rejects > MAX_REJECTS:
        raise _too_many(where, MAX_REJECTS, "rejects: members of no sample, and samples with nothing to encode")


def _too_many(where: str, most: int, what: str) -> DamagedDataError:
    return DamagedDataError(
        "tar-too-many",
        where=where,
        expected=f"at most {most:,} {what}",
        actual="more",
        remedy="if the tar is what you want, cut it into smaller ones; else leave it out",
    )

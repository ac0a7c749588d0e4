"""Which paths name an object of a folder or bucket prefix, and none beside it.

Groups, shards and parts are named in documents that a stranger may have written, and their names become paths. Every
access goes through `require_inside`, so that none leads out of the folder, whoever put the path together.
"""

from __future__ import annotations

from schemas.errors import ContractError

_OUTSIDE = frozenset(("", ".", ".."))


def leads_outside(path: str) -> bool:
    """Whether a path is absolute, has a segment that is empty or goes up, or a NUL."""
    return not _OUTSIDE.isdisjoint(path.split("/")) or "\0" in path


def require_inside(path: str, *, where: str) -> None:
    """Refuses a path that may lead out of its folder.

    Raises:
        ContractError: Code `path-unsafe`.
    """
    if leads_outside(path):
        raise ContractError(
            "path-unsafe",
            where=where,
            expected="a relative path without empty segments, . and ..",
            actual=ascii(path[:300]),
            remedy="do not use this dataset: a name in one of its documents is made to lead out of it",
        )

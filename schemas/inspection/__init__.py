"""What `python -m schemas inspect` shows a person: a dataset, a shard, or one row."""

from __future__ import annotations

from rich.console import Console

from schemas.dataset import open_dataset
from schemas.errors import ConfigError
from schemas.inspection.dataset_view import show_dataset
from schemas.inspection.row_view import show_row
from schemas.inspection.shard_view import show_shard


def inspect_dataset(
    url: str, console: Console, *, shard: str | None = None, row: int | None = None, group: str | None = None
) -> None:
    """Prints what a dataset holds.

    Args:
        url: Folder or bucket URL.
        console: Where to print.
        shard: Only this shard.
        row: Only this row of the shard, counted from 0.
        group: Only this column group.

    Raises:
        EncodeOnceError: There is no such dataset, group, shard or row, or it is damaged.
    """
    dataset = open_dataset(url)
    groups = [name for name in dataset.groups if group in (None, name)]
    if group is not None and not groups:
        raise _not_there(url, f"group {group!r}", f"the groups are: {', '.join(dataset.groups) or 'none'}")
    if shard is None and row is not None:
        raise ConfigError(
            "row-without-shard",
            where="--row",
            expected="a shard that the row is counted in",
            actual="no shard",
            remedy="give the shard's name before --row; `inspect URL` lists them",
        )
    if shard is None:
        show_dataset(dataset, groups, console)
        return
    groups = [name for name in groups if shard in dataset.shards(name)]
    if not groups:
        names = sorted({name for each in dataset.groups for name in dataset.shards(each)})
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise _not_there(url, f"shard {shard!r}", f"{len(names)} shards: {shown or 'none'}")
    if row is None:
        show_shard(dataset, groups, shard, console)
        return
    for name in groups:
        show_row(dataset, name, shard, row, console)


def _not_there(url: str, what: str, actual: str) -> ConfigError:
    remedy = "choose one of those; a shard is named as its tar, without .tar and relative to the input's root"
    return ConfigError("not-in-dataset", where=url, expected=what, actual=actual, remedy=remedy)

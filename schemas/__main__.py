"""`python -m schemas`: validate a dataset, or look at what it holds."""

from __future__ import annotations

import sys
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress as ProgressBar

from schemas.errors import EncodeOnceError
from schemas.inspection import inspect_dataset
from schemas.printable import printable_json
from schemas.validator import Level, validate
from schemas.validator.text import SHOWN_PER_CODE, report_lines

Url = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="URL")]


def validate_command(
    url: Url,
    /,
    level: Level = "checksums",
    json: bool = False,
    source: bool = True,
    num_threads: int = 8,
    shown: int = SHOWN_PER_CODE,
) -> int:
    """Check a dataset. Exit status: 0 if there is no error, 1 if there is, 2 if it cannot be reached.

    Args:
        url: Folder or bucket URL of the dataset.
        level: structure reads documents and the ends of files; checksums reads everything; values also decodes it.
        json: Print one JSON document with all findings and counts.
        source: At level values, count the keys of every input tar that can be reached.
        num_threads: Files read at a time.
        shown: Findings of each kind to print in full.
    """
    with ProgressBar(console=Console(stderr=True), transient=True, disable=json or not sys.stderr.isatty()) as bar:
        task = bar.add_task("shards", total=None)
        report = validate(
            url,
            level,
            source=source,
            num_threads=num_threads,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if json:
        print(printable_json(report.to_json()))
    else:
        print("\n".join(report_lines(report, shown=shown)))
    return 0 if report.ok else 1


def inspect_command(
    url: Url,
    shard: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="SHARD")] = None,
    /,
    row: int | None = None,
    group: str | None = None,
) -> int:
    """Show what a dataset holds, or one of its shards, or one row of a shard.

    Args:
        url: Folder or bucket URL of the dataset.
        shard: Only this shard, in detail.
        row: Only this row of the shard, counted from 0.
        group: Only this column group.
    """
    inspect_dataset(url, Console(highlight=False, markup=False, emoji=False), shard=shard, row=row, group=group)
    return 0


def main() -> int:
    """The command line; returns the exit status."""
    try:
        status: int = tyro.extras.subcommand_cli_from_dict(
            {"validate": validate_command, "inspect": inspect_command},
            prog="python -m schemas",
            description="Validate an encode-once dataset, or look at what it holds.",
        )
        return status
    except EncodeOnceError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

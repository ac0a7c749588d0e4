"""Numbers, captions and histograms as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from schemas.printable import printable

_BLOCKS = " ▏▎▍▌▋▊▉█"
_BAR_CELLS = 24


def bytes_text(num_bytes: float) -> str:
    """A size with a binary unit, three digits."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if num_bytes < 1024 or unit == "TiB":
            break
        num_bytes /= 1024
    return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.3g} {unit}"


def ratio_text(part: float, whole: float) -> str:
    """A share with three decimals, or a dash where there is nothing to divide by."""
    return f"{part / whole:.3f}" if whole else "-"


def caption_text(caption: str | None, limit: int = 160) -> Text:
    """A caption on one line. What would move the cursor or change colours is shown escaped."""
    if caption is None:
        return Text("(none)", style="dim")
    return Text(printable(caption[:limit]) + (f"… ({len(caption):,} characters)" if len(caption) > limit else ""))


class PrintableTable(Table):
    """A table whose cells may be what a stranger wrote."""

    def add_row(self, *cells: RenderableType | None, **style: Any) -> None:
        """Adds a row, each cell on one line, escaped."""
        super().add_row(*map(_printable_cell, cells), **style)


def _printable_cell(cell: RenderableType | None) -> RenderableType | None:
    if isinstance(cell, Text):
        return cell if cell.plain.isprintable() else Text(printable(cell.plain), style=cell.style)
    return printable(cell) if isinstance(cell, str) else cell


def line(text: str, style: str = "") -> Text:
    """One line between tables, escaped like their cells."""
    return Text(printable(text), style=style)


def table(*columns: str, title: str | None = None, right: Sequence[str] = ()) -> Table:
    """An empty table in the one style used here; columns named in `right` are numbers."""
    title = None if title is None else printable(title)
    made = PrintableTable(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def pairs(title: str | None, facts: Sequence[tuple[str, str | Text]]) -> Table:
    """Facts, one a line: name and value."""
    made = table("", "", title=title)
    made.show_header = False
    for name, value in facts:
        made.add_row(line(name, style="dim"), value if isinstance(value, Text) else line(value))
    return made


def histogram(values: Sequence[int], limit: int, title: str) -> Table:
    """Token counts as bars: about ten ranges of equal width up to `limit`, empty ones at both ends left out."""
    width = max(1, -(-limit // 10))
    counts: list[int] = np.bincount(np.minimum(np.asarray(values, int), limit) // width).tolist()
    made = table("tokens", "captions", "", title=title, right=("tokens", "captions"))
    filled = np.flatnonzero(counts)
    for index in range(int(filled[0]), int(filled[-1]) + 1) if len(filled) else ():
        low, high = index * width, min((index + 1) * width - 1, limit)
        made.add_row(
            str(low) if low == high else f"{low}-{high}", f"{counts[index]:,}", _bar(counts[index], max(counts))
        )
    return made


def _bar(count: int, largest: int) -> str:
    eighths = max(1, round(count / largest * _BAR_CELLS * 8)) if count else 0
    return _BLOCKS[8] * (eighths // 8) + (_BLOCKS[eighths % 8] if eighths % 8 else "")

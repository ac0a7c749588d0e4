"""What one column of a tar has for each sample: where its member lies, or why there is none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator

from pipeline.sources.caption_text import Fault


class Column(ABC):
    """Members and faults, a row a sample.

    Args:
        name: The column group's.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.num_found = 0
        """Rows that have what the column is about."""
        self.faults: dict[int, tuple[Fault, int]] = {}
        """By row: why it has none, and where the member's header is. Rows without the member are not in it."""
        self._offsets = array("q")
        self._sizes = array("q")

    def add_row(self) -> None:
        """Makes place for one more sample."""
        self._offsets.append(-1)
        self._sizes.append(0)

    def put_fault(self, row: int, fault: Fault, header_offset: int) -> None:
        """Records why the member at `header_offset` is of no use to a row."""
        self.faults[row] = (fault, header_offset)

    def put_member(self, row: int, data_offset: int, size: int) -> None:
        """Records a row's member, with a body of `size` bytes at `data_offset`."""
        self.faults.pop(row, None)
        self.num_found += 1
        self._offsets[row] = data_offset
        self._sizes[row] = size

    def span(self, row: int) -> tuple[int, int] | None:
        """Offset and size of the row's member; None if it has none."""
        return None if self._offsets[row] < 0 else (self._offsets[row], self._sizes[row])

    def rows_without_member(self) -> Iterator[int]:
        """The rows whose sample lacks the member."""
        return (row for row, offset in enumerate(self._offsets) if offset < 0 and row not in self.faults)

    @abstractmethod
    def field(self, row: int) -> str:
        """The member extension that the row's member, or its fault, has."""

    @abstractmethod
    def missing(self, fields: str) -> Fault:
        """Why a sample without the member is rejected; `fields` are those it has, for the message."""

"""The captions of one column of a tar: text while a budget lasts, after that only where to read it again."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any

from pipeline.sources.caption_text import Fault, find_caption, parse_json, read_text

_JSON_PREFIX = "json."
_OBJECT_BYTES = 40
"""What Python adds to each string of bytes that is kept."""


class Budget:
    """Bytes that captions may take in memory, shared by the columns of a tar."""

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes

    def take(self, num_bytes: int) -> bool:
        """Whether so many bytes more may be kept."""
        if num_bytes > self._left:
            return False
        self._left -= num_bytes
        return True


class CaptionColumn:
    """One column's captions and faults, a row a sample.

    Args:
        name: `txt`, or any member extension; `json.FIELD` for a field of the `json` member.
        budget: Shared by all columns of the tar.
    """

    def __init__(self, name: str, budget: Budget) -> None:
        self.name = name
        self.is_json = name.startswith(_JSON_PREFIX)
        self.member_field = "json" if self.is_json else name
        """The member extension the captions are in."""
        self.num_captions = 0
        self.faults: dict[int, tuple[Fault, int]] = {}
        """By row: why it has no caption, and where the member's header is. Rows without the member are not in it."""
        self._budget = budget
        self._texts: list[bytes | None] = []
        self._offsets = array("q")
        self._sizes = array("q")

    def add_row(self) -> None:
        """Makes place for one more sample."""
        self._texts.append(None)
        self._offsets.append(-1)
        self._sizes.append(0)

    def put_fault(self, row: int, fault: Fault, header_offset: int) -> None:
        """Records why the member at `header_offset` gives a row no caption."""
        self.faults[row] = (fault, header_offset)

    def put_text(self, row: int, text: bytes, data_offset: int, size: int) -> None:
        """Records a row's caption, taken from a member's body of `size` bytes at `data_offset`."""
        self.faults.pop(row, None)
        self.num_captions += 1
        self._offsets[row] = data_offset
        self._sizes[row] = size
        # Python has one empty string of bytes, and stores answer no empty range.
        if not text or self._budget.take(len(text) + _OBJECT_BYTES):
            self._texts[row] = text

    def text(self, row: int) -> bytes | None:
        """The caption if it is in memory."""
        return self._texts[row]

    def span(self, row: int) -> tuple[int, int] | None:
        """Offset and size of the member that holds the caption; None if the row has none."""
        return None if self._offsets[row] < 0 else (self._offsets[row], self._sizes[row])

    def rows_without_member(self) -> Iterator[int]:
        """The rows whose sample lacks the member."""
        return (row for row, offset in enumerate(self._offsets) if offset < 0 and row not in self.faults)

    def extract(self, data: bytes) -> bytes | Fault:
        """The caption in a member's body."""
        return self.extract_parsed(parse_json(data)) if self.is_json else read_text(data)

    def extract_parsed(self, document: dict[str, Any] | Fault) -> bytes | Fault:
        """The caption in a JSON member that has been parsed, or could not be."""
        return document if isinstance(document, Fault) else find_caption(document, self.name.removeprefix(_JSON_PREFIX))

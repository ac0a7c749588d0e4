"""The captions of one column of a tar: text while a budget lasts, after that only where to read it again."""

from __future__ import annotations

from typing import Any

from pipeline.sources.caption_text import Fault, find_caption, parse_json, read_text
from pipeline.sources.column import Column

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


class CaptionColumn(Column):
    """One column's captions and faults, a row a sample.

    Args:
        name: `txt`, or any member extension; `json.FIELD` for a field of the `json` member.
        budget: Shared by all columns of the tar.
    """

    def __init__(self, name: str, budget: Budget) -> None:
        super().__init__(name)
        self.is_json = name.startswith(_JSON_PREFIX)
        self.member_field = "json" if self.is_json else name
        """The member extension the captions are in."""
        self._budget = budget
        self._texts: list[bytes | None] = []

    def add_row(self) -> None:
        """Makes place for one more sample."""
        super().add_row()
        self._texts.append(None)

    def put_text(self, row: int, text: bytes, data_offset: int, size: int) -> None:
        """Records a row's caption, taken from a member's body of `size` bytes at `data_offset`."""
        self.put_member(row, data_offset, size)
        # Python has one empty string of bytes, and stores answer no empty range.
        if not text or self._budget.take(len(text) + _OBJECT_BYTES):
            self._texts[row] = text

    def field(self, row: int) -> str:  # noqa: ARG002 the same for all rows
        """The member extension the captions are in."""
        return self.member_field

    def missing(self, fields: str) -> Fault:
        """Why a sample without the member is rejected."""
        return Fault("caption-missing", f"the sample has no member {self.member_field!r}; it has: {fields}")

    def text(self, row: int) -> bytes | None:
        """The caption if it is in memory."""
        return self._texts[row]

    def extract(self, data: bytes) -> bytes | Fault:
        """The caption in a member's body."""
        return self.extract_parsed(parse_json(data)) if self.is_json else read_text(data)

    def extract_parsed(self, document: dict[str, Any] | Fault) -> bytes | Fault:
        """The caption in a JSON member that has been parsed, or could not be."""
        return document if isinstance(document, Fault) else find_caption(document, self.name.removeprefix(_JSON_PREFIX))

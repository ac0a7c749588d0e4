"""The images of a tar: which member each sample's image is. Bodies are read later, a few at a time."""

from __future__ import annotations

from array import array
from typing import Final

from pipeline.sources.caption_text import Fault
from pipeline.sources.column import Column

IMAGE_FIELDS: Final = ("jpg", "jpeg", "png", "webp")
"""Member extensions that are images. `seg.png` is another field: a mask, say, and no picture of the sample."""

MAX_IMAGE_BYTES = 64 * 1024**2
"""Largest image member that is read; it is held in memory, with some others."""


class ImageColumn(Column):
    """A sample's image is the first of its image members, in the order of the tar, that is whole."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._fields = array("b")

    def add_row(self) -> None:
        """Makes place for one more sample."""
        super().add_row()
        self._fields.append(0)

    def put_image(self, row: int, field: str, data_offset: int, size: int) -> None:
        """Records a row's image, unless one came before."""
        if self.span(row) is None:
            self._fields[row] = IMAGE_FIELDS.index(field)
            self.put_member(row, data_offset, size)

    def put_image_fault(self, row: int, field: str, fault: Fault, header_offset: int) -> None:
        """Records why a row's image member cannot be read, unless another one can."""
        if self.span(row) is None and row not in self.faults:
            self._fields[row] = IMAGE_FIELDS.index(field)
            self.put_fault(row, fault, header_offset)

    def field(self, row: int) -> str:
        """The extension of the row's image member."""
        return IMAGE_FIELDS[self._fields[row]]

    def missing(self, fields: str) -> Fault:
        """Why a sample without an image is rejected."""
        return Fault("image-missing", f"the sample has no member {', '.join(IMAGE_FIELDS)}; it has: {fields}")

"""Which fields each sample of a tar has, in little memory: samples with the same fields share one tuple."""

from __future__ import annotations

_MOST_SHARED = 16
"""Samples with more fields have a set of their own, so that one with 100,000 fields does not take quadratic time."""


class SampleFields:
    """The fields of each row."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, ...] | dict[str, None]] = []
        self._shared: dict[tuple[str, ...], tuple[str, ...]] = {}

    def add_row(self) -> None:
        """Makes place for one more sample."""
        self._rows.append(())

    def add(self, row: int, field: str) -> bool:
        """Notes that a row has a field; False if it had it already."""
        fields = self._rows[row]
        if field in fields:
            return False
        if isinstance(fields, dict):
            fields[field] = None
        elif len(fields) >= _MOST_SHARED:
            self._rows[row] = dict.fromkeys((*fields, field))
        else:
            longer = (*fields, field)
            self._rows[row] = self._shared.setdefault(longer, longer)
        return True

    def has(self, row: int, field: str) -> bool:
        """Whether a row has a field."""
        return field in self._rows[row]

    def of(self, row: int) -> tuple[str, ...]:
        """The fields of a row, in the order of the tar."""
        return tuple(self._rows[row])

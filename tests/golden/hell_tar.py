"""One golden tar: its bytes, and what must be read from it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class HellTar:
    name: str
    data: bytes
    captions: dict[str, list[str | None]]
    """Column to captions, a row a key."""
    keys: list[str]
    refused: list[tuple[str, str | None]] = field(default_factory=list)
    """Code and key of members without a row, in the order of the tar; the same in every column."""
    faults: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Column to code and key of rows without a caption, in row order."""
    damage: list[tuple[str, int, int]] = field(default_factory=list)
    """Code, first byte, and the byte behind the last one."""

    def expected(self) -> dict[str, object]:
        return {
            "keys": self.keys,
            "captions": self.captions,
            "refused": [list(entry) for entry in self.refused],
            "faults": {column: [list(entry) for entry in self.faults.get(column, [])] for column in self.captions},
            "damage": [list(entry) for entry in self.damage],
        }

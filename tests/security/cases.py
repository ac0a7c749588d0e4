"""What a hostile file is, for the tests and for the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Hostile:
    """A hostile file, or a dataset with one in it.

    Attributes:
        name: In a few words.
        write: Makes it in an empty folder.
        expected: By reader ("pipeline", "validator", "trainer"), the code that it must come to.
        container: Of the dataset.
    """

    name: str
    write: Callable[[Path], None]
    expected: Mapping[str, str]
    container: str = "-"


class Collected:
    """Collects the cases of a module."""

    def __init__(self) -> None:
        self.found: list[Hostile] = []

    def __call__(self, **expected: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
        def add(write: Callable[[Path], None]) -> Callable[[Path], None]:
            self.found.append(Hostile(write.__name__.strip("_").replace("_", " "), write, expected))
            return write

        return add

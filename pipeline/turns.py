"""Shards that share a worker take turns on its device: one is computed, the others are read, tokenized or written."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")


def in_turn(turn: threading.Lock, items: Iterable[T]) -> Generator[T, None, None]:
    """Yields what `items` yields; from the first item until after the last one, nobody else has the turn.

    Args:
        turn: The device's.
        items: What the device makes.
    """
    with turn:
        yield from items

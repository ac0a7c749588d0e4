"""Changes to bytes and to JSON that break parsers: few, at places that matter, with the numbers that overflow."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

EDGES = (0, 1, -1, 2, 7, 8, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1)
HOSTILE_NAMES = (
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a//b",
    "a\0b",
    "a\nb",
    "é" * 300,
    "x" * 5000,
    "\x1b[2J",
)
_DEEP = 3000


def mutate_bytes(random: Random, data: bytes, *, most: int = 4) -> bytes:
    """A few changes, anywhere."""
    found = bytearray(data)
    for _ in range(random.randint(1, most)):
        change = random.choice(_BYTE_CHANGES)
        if found:
            change(random, found)
    return bytes(found)


def _flip(random: Random, data: bytearray) -> None:
    position = random.randrange(len(data))
    data[position] ^= 1 << random.randrange(8)


def _number(random: Random, data: bytearray) -> None:
    """A number where a number may be: aligned, little-endian, of any width."""
    width = random.choice((1, 2, 4, 8, 8))
    position = random.randrange(len(data)) // width * width
    value = random.choice(EDGES) + random.choice((0, 0, 1, -1))
    data[position : position + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")


def _nudge(random: Random, data: bytearray) -> None:
    position = random.randrange(len(data))
    data[position] = (data[position] + random.choice((-8, -4, -1, 1, 4, 8))) % 256


def _cut(random: Random, data: bytearray) -> None:
    start = random.randrange(len(data))
    del data[start : start + random.choice((1, 4, 8, 64, 512, len(data)))]


def _repeat(random: Random, data: bytearray) -> None:
    start, size = random.randrange(len(data)), random.choice((1, 4, 8, 64, 512))
    at = random.randrange(len(data))
    data[at:at] = data[start : start + size]


def _fill(random: Random, data: bytearray) -> None:
    start, size = random.randrange(len(data)), random.choice((4, 8, 64, 512))
    data[start : start + size] = random.choice((b"\0", b"\xff", b"\x80")) * len(data[start : start + size])


def _noise(random: Random, data: bytearray) -> None:
    start, size = random.randrange(len(data)), random.choice((1, 2, 8, 32))
    data[start : start + size] = random.randbytes(len(data[start : start + size]))


_BYTE_CHANGES: tuple[Callable[[Random, bytearray], None], ...] = (
    _flip,
    _flip,
    _number,
    _number,
    _nudge,
    _cut,
    _repeat,
    _fill,
    _noise,
)


def mutate_json(random: Random, value: Any, *, most: int = 3) -> Any:
    """A JSON value with some of its values replaced, lost or repeated; `value` is changed in place."""
    holder = [value]
    places = _places(holder)
    for container, key in random.sample(places, min(len(places), random.randint(1, most))):
        if isinstance(container, list) or key in container:
            _change_json(random, container, key)
    return holder[0]


def _places(top: list[Any]) -> list[tuple[Any, Any]]:
    """Every value in a JSON value, as the container and key that it is at."""
    found: list[tuple[Any, Any]] = []
    waiting: list[Any] = [top]
    while waiting:
        container = waiting.pop()
        for key in range(len(container)) if isinstance(container, list) else list(container):
            found.append((container, key))
            if isinstance(container[key], (list, dict)):
                waiting.append(container[key])
    return found


def _change_json(random: Random, container: Any, key: Any) -> None:
    old = container[key]
    choice = random.randrange(9)
    if choice == 0 and isinstance(container, dict):
        del container[key]
    elif choice == 1 and isinstance(container, dict):
        container[random.choice((*HOSTILE_NAMES, "sha256"))] = old
    elif choice == 2 and isinstance(old, (list, tuple)):
        container[key] = [*old, *old]
    elif choice == 3 and isinstance(old, str):
        container[key] = random.choice(HOSTILE_NAMES)
    elif choice <= 5 and isinstance(old, (int, float)):
        container[key] = random.choice((*EDGES, 10**30, 0.5, 1e308))
    elif choice == 6:
        container[key] = _nested(random.choice((1, 50, 300, 900, _DEEP)))
    elif isinstance(old, str) and old:
        at = random.randrange(len(old))
        container[key] = old[:at] + random.choice(("", "0", "g", "/", "..", "\ud800", "\u202e")) + old[at + 1 :]
    else:
        container[key] = random.choice((None, True, "text", [], {}, 0, -1, [[]], {"a": {}}))


def _nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = [value]
    return value

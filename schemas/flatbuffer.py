"""Where the fields of a flatbuffer are: as much of the format as Arrow's metadata needs.

https://flatbuffers.dev/internals/ describes it. A table begins with the distance back to its vtable, which says how far
behind the table's beginning each field is; what is longer than a number is said by its distance from the field.
"""

from __future__ import annotations

import struct
from typing import Final

UINT16: Final = struct.Struct("<H")
INT32: Final = struct.Struct("<i")
UINT32: Final = struct.Struct("<I")
INT64: Final = struct.Struct("<q")


def root_table(data: memoryview) -> int:
    """Where the outermost table begins.

    Raises:
        struct.error: The data end before that is said; likewise below.
    """
    return follow(data, 0)


def field(data: memoryview, table: int, index: int) -> int:
    """Where a table's field is; 0 if the table does not have it.

    Raises:
        ValueError, struct.error: The data are no flatbuffer.
    """
    vtable = table - INT32.unpack_from(data, table)[0]
    if vtable < 0:
        raise ValueError("metadata that begins before itself")
    place = 4 + 2 * index
    if place >= UINT16.unpack_from(data, vtable)[0]:
        return 0
    offset: int = UINT16.unpack_from(data, vtable + place)[0]
    return table + offset if offset else 0


def follow(data: memoryview, place: int) -> int:
    """Where that begins whose distance stands at `place`."""
    found: int = place + UINT32.unpack_from(data, place)[0]
    return found


def vector(data: memoryview, table: int, index: int, item_bytes: int) -> tuple[int, int]:
    """A table's vector of structs.

    Returns:
        Where its first item is, and how many there are; 0 and 0 if the table does not have it.

    Raises:
        ValueError, struct.error: It is not all there.
    """
    place = field(data, table, index)
    if place == 0:
        return 0, 0
    begin = follow(data, place)
    count: int = UINT32.unpack_from(data, begin)[0]
    if begin + 4 + item_bytes * count > len(data):
        raise ValueError(f"metadata of {count} items that are not in it")
    return begin + 4, count

"""The members of a webdataset part, as SPEC.md section 4.5 has them written; whatever else a tar may hold is refused.

Python's tarfile is made for all tars there are: it follows sizes that point backwards, for ever on some versions
(CVE-2025-8194), reads extended headers of any length into memory, and skips what it does not understand. A part is
written by one writer in one way, so that what differs from it is damage.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from typing import Final, NamedTuple

from schemas.limits import MAX_KEY_BYTES

BLOCK_BYTES: Final = 512
_MAX_PAX_BYTES: Final = MAX_KEY_BYTES + BLOCK_BYTES
"""A pax header holds one record, the member's name: a key, a group and an extension."""

_FILE: Final = b"0"
_PAX: Final = b"x"
_OCTAL = re.compile(rb"([0-7]{1,11})\0?")
_PATH_RECORD = re.compile(rb"([0-9]{1,5}) path=([^\0]*)\n", re.DOTALL)


class TarMember(NamedTuple):
    """One file of a tar in memory."""

    name: str
    start: int
    """Where its header is, that with its full name if it has two."""
    data_start: int
    size: int


def write_member(name: str, data: bytes) -> list[bytes]:
    """A member's bytes, in pieces: header, content, padding."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    # PAX for long and non-ASCII names; every other field is constant, so that the same rows make the same bytes.
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
    return [header, data, b"\0" * (-len(data) % BLOCK_BYTES)]


def read_members(data: memoryview, *, may_be_cut: bool = False) -> Iterator[TarMember]:
    """The members of a run of whole members, in order. Looks at headers alone; takes no memory for what they declare.

    Args:
        data: All of the run, without blocks of zeros at its end.
        may_be_cut: Whether the last member's content may end too soon, as in a part's first bytes.

    Raises:
        ValueError: It is not what `write_member` writes, one after the other.
    """
    position = 0
    while position < len(data):
        start, long_name = position, None
        typeflag, name, size = _header(data, position)
        position += BLOCK_BYTES
        if typeflag == _PAX:
            if size > _MAX_PAX_BYTES:
                raise ValueError(f"a pax header of {size} bytes at byte {start}")
            long_name = _path(_content(data, position, size), start)
            position += size + -size % BLOCK_BYTES
            typeflag, name, size = _header(data, position)
            position += BLOCK_BYTES
        if typeflag != _FILE:
            raise ValueError(f"a member of type {typeflag!r} at byte {start}, which is no file")
        if not may_be_cut:
            _content(data, position, size)
        yield TarMember((name if long_name is None else long_name).decode(), start, position, size)
        position += size + -size % BLOCK_BYTES
    if position != len(data) and not may_be_cut:
        raise ValueError(f"the last member is cut off: {len(data)} bytes instead of {position}")


def _header(data: memoryview, position: int) -> tuple[bytes, bytes, int]:
    """A header's type, name and size."""
    block = bytes(_content(data, position, BLOCK_BYTES))
    stored, size = _OCTAL.match(block[148:156]), _OCTAL.fullmatch(block[124:136])
    if stored is None or int(stored[1], 8) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        raise ValueError(f"no tar header at byte {position}: its checksum is wrong")
    if size is None or block[257:265] != b"ustar\x0000" or block[345]:
        raise ValueError(f"a tar header at byte {position} that is not of the plain ustar kind")
    return block[156:157], block[:100].partition(b"\0")[0], int(size[1], 8)


def _content(data: memoryview, position: int, size: int) -> memoryview:
    if size > len(data) - position:
        raise ValueError(f"{size} bytes declared at byte {position}, where {max(len(data) - position, 0)} are left")
    return data[position : position + size]


def _path(content: memoryview, start: int) -> bytes:
    found = _PATH_RECORD.fullmatch(content)
    if found is None or int(found[1]) != len(content):
        raise ValueError(f"a pax header at byte {start} that is not one record, the path")
    return found[2]

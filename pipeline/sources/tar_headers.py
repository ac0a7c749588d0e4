"""What one 512-byte tar header says, in every dialect that is in use: v7, ustar, GNU and pax.

Layout and rules: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format". Headers come from
strangers, so that nothing is believed before the checksum holds and no number may be negative.
"""

from __future__ import annotations

from typing import NamedTuple

BLOCK_BYTES = 512
ZERO_BLOCK = bytes(BLOCK_BYTES)

_CHECKSUM = slice(148, 156)
_GNU_MAGIC = b"ustar  \0"

# What people rename to .tar, by how it begins.
_FOREIGN = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"PAR1", "Parquet"),
)


class Header(NamedTuple):
    """One sound header."""

    name: bytes
    """Prefix and name joined; at most 256 bytes, so that long names may be cut short."""
    size: int
    """Declared bytes of the body; not checked against anything."""
    typeflag: bytes
    """One byte."""
    extended: bool
    """Whether an old GNU sparse map goes on in the next block."""


def parse_header(block: bytes) -> Header | None:
    """Reads one header of 512 bytes; None if its checksum or its size is no number that it can be."""
    stored = parse_number(block[_CHECKSUM])
    if stored is None or not _checksum_holds(block, stored):
        return None
    size = parse_number(block[124:136])
    if size is None:
        return None
    name = _text(block[0:100])
    # GNU's own format keeps times where ustar keeps the prefix.
    if block[345] and block[257:262] == b"ustar" and block[257:265] != _GNU_MAGIC:
        name = _text(block[345:500]) + b"/" + name
    typeflag = block[156:157]
    return Header(name, size, typeflag, typeflag == b"S" and block[482] != 0)


def may_be_header(block: bytes) -> bool:
    """A quick look that spares most blocks of a damaged stretch the full check."""
    return block[257:262] == b"ustar" or block[_CHECKSUM].strip(b" \0").isdigit()


def parse_number(field: bytes) -> int | None:
    """An octal number, or GNU's base-256 where eleven digits do not suffice; None if it is neither or negative."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            return None
        return int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    # int() alone would also take signs, underscores and "0o".
    if not digits.isdigit() or max(digits) > ord("7"):
        return None
    return int(digits, 8)


def parse_pax(data: bytes) -> dict[bytes, bytes] | None:
    """The records of a pax extended header, each `<length> <keyword>=<value>` and a newline; None if malformed."""
    records = {}
    position = 0
    while position < len(data) and data[position]:
        digits, space, _ = data[position : position + 12].partition(b" ")
        if not space or not digits.isdigit():
            return None
        end = position + int(digits)
        record = data[position + len(digits) + 1 : end]
        keyword, equals, value = record.partition(b"=")
        if end > len(data) or not equals or not value.endswith(b"\n"):
            return None
        records[keyword] = value[:-1]
        position = end
    return records


def foreign_format(beginning: bytes) -> str | None:
    """What the object looks like by its first bytes, if that is a well-known other format."""
    return next((name for magic, name in _FOREIGN if beginning.startswith(magic)), None)


def _checksum_holds(block: bytes, stored: int) -> bool:
    # Half of a header is zeros; dropping them first makes the sum twice as fast.
    total = sum(block.translate(None, b"\0")) - sum(block[_CHECKSUM]) + 8 * ord(" ")
    if total == stored:
        return True
    # Some old tars summed the bytes as signed.
    negative = sum(byte > 127 for byte in block) - sum(byte > 127 for byte in block[_CHECKSUM])
    return total - 256 * negative == stored


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]

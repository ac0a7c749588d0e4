"""Tars built byte by byte, in all dialects and with all the faults that tools for writing tars would never make.

Shares nothing with the reader that it tests.
"""

from __future__ import annotations

BLOCK = 512
END = bytes(2 * BLOCK)
POSIX = b"ustar\x0000"
GNU = b"ustar  \x00"
V7 = bytes(8)


def octal(number: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, number)


def base256(number: int, width: int) -> bytes:
    return b"\x80" + number.to_bytes(width - 1, "big")


def header(
    name: bytes,
    size: int,
    typeflag: bytes = b"0",
    *,
    magic: bytes = POSIX,
    prefix: bytes = b"",
    link: bytes = b"",
    size_field: bytes | None = None,
    tail: bytes = b"",
    signed: bool = False,
) -> bytes:
    """One header block. `tail` overwrites what follows the prefix's place, from byte 345."""
    block = bytearray(BLOCK)
    block[0 : len(name[:100])] = name[:100]
    block[100:108], block[108:116], block[116:124] = octal(0o644, 8), octal(0, 8), octal(0, 8)
    block[124:136] = octal(size, 12) if size_field is None else size_field
    block[136:148] = octal(0, 12)
    block[148:156] = b" " * 8
    block[156:157] = typeflag
    block[157 : 157 + len(link)] = link
    block[257:265] = magic
    block[345 : 345 + len(prefix)] = prefix
    block[345 : 345 + len(tail)] = tail
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def member(name: str | bytes, data: str | bytes = b"", typeflag: bytes = b"0", **fields: object) -> bytes:
    """Header and body."""
    raw_name = name.encode() if isinstance(name, str) else name
    raw = data.encode() if isinstance(data, str) else data
    return header(raw_name, len(raw), typeflag, **fields) + padded(raw)


def pax_record(keyword: bytes, value: bytes) -> bytes:
    """`<length> <keyword>=<value>` and a newline, the length counting itself."""
    length = rest = len(keyword) + len(value) + 3
    while length != rest + len(str(length)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, keyword, value)


def pax(typeflag: bytes = b"x", **records: bytes) -> bytes:
    """A pax extended header; `__` in a keyword stands for a dot."""
    body = b"".join(pax_record(keyword.replace("__", ".").encode(), value) for keyword, value in records.items())
    return member("PaxHeaders/0", body, typeflag)


def gnu_long_name(name: bytes, typeflag: bytes = b"L") -> bytes:
    return member("././@LongLink", name + b"\0", typeflag, magic=GNU)


def corrupt(block: bytes) -> bytes:
    """A header whose checksum no longer holds."""
    return block[:110] + bytes([block[110] ^ 1]) + block[111:]


def sample(key: str, caption: str) -> bytes:
    """An image (that is none) and its caption."""
    return member(f"{key}.jpg", f"image {key}") + member(f"{key}.txt", caption)

"""A walk over the members of a tar that may be damaged, without reading the bodies.

Python's tarfile reads 22,000-26,000 members a second and ends, silently, at the first header it does not understand;
WebDataset's reader stands on it. A tar from the wild is cut off by a full disk, has a bad sector in the middle, or is
two tars in one. This walk reports each damage with its byte range, goes on at the next header with a sound checksum,
and keeps every member that is whole. It never allocates what a header declares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from pipeline.sources.block_reader import BlockReader
from pipeline.sources.tar_headers import (
    BLOCK_BYTES,
    ZERO_BLOCK,
    Header,
    foreign_format,
    may_be_header,
    parse_header,
    parse_pax,
)

MAX_EXTENSION_BYTES = 1024**2
"""Longest pax or GNU long-name header that is read; longer ones are skipped, and the name they held is lost."""

_SCAN_BYTES = 256 * 1024
_NO_BODY = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))
_FILES = frozenset((b"0", b"\0", b"7"))
_EXTENSIONS = frozenset((b"L", b"K", b"x", b"X", b"g"))

Kind = Literal["file", "sparse", "directory", "other"]


class Member(NamedTuple):
    """One member, in the order of the tar."""

    name: bytes
    kind: Kind
    size: int
    """Declared bytes of the body."""
    header_offset: int
    data_offset: int
    is_cut: bool
    """Whether the object ends before the body does."""
    name_is_certain: bool
    """False if the extended header that may have held its name is damaged."""


class Damage(NamedTuple):
    """Bytes `start` to `stop` that could not be read as they should."""

    code: str
    start: int
    stop: int
    reason: str


class _Extension:
    """What the extended headers before a member said of it."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.name: bytes | None = None
        self.size: int | None = None
        self.is_sparse = False
        self.is_lost = False

    def take(self, records: dict[bytes, bytes]) -> None:
        """Reads the records of a pax header."""
        self.name = records.get(b"GNU.sparse.name") or records.get(b"path") or self.name
        self.size = int(records[b"size"]) if records.get(b"size") else self.size
        self.is_sparse |= any(keyword.startswith(b"GNU.sparse.") for keyword in records)


def walk_tar(reader: BlockReader) -> Iterator[Member | Damage]:
    """Every member and every damage of a tar, front to back. A member's body may be read while it is the latest one."""
    return _Walk(reader).run()


class _Walk:
    def __init__(self, reader: BlockReader) -> None:
        self._reader = reader
        self._end = reader.num_bytes
        self._position = 0
        self._found: list[Member | Damage] = []
        self._extension: _Extension | None = None
        self._global: dict[bytes, bytes] = {}
        self._has_ended = False
        """Whether the last thing read was an end-of-archive mark, or damage up to the object's end."""
        self._after_damage = False

    def run(self) -> Iterator[Member | Damage]:
        if not self._look_at_beginning():
            while self._position + BLOCK_BYTES <= self._end:
                self._step()
                yield from self._found
                self._found.clear()
            self._finish()
        yield from self._found

    def _look_at_beginning(self) -> bool:
        """Whether all is said already: nothing there, or no tar at all."""
        if self._end == 0:
            self._damage("tar-zero-bytes", 0, 0, "the object has 0 bytes")
            return True
        beginning = self._reader.read(0, min(BLOCK_BYTES, self._end))
        name = foreign_format(beginning)
        if name is None or (len(beginning) == BLOCK_BYTES and parse_header(beginning) is not None):
            return False
        self._damage("tar-compressed", 0, self._end, f"the object looks like {name}, not like a plain tar")
        return True

    def _step(self) -> None:
        block = self._reader.read(self._position, BLOCK_BYTES)
        if block == ZERO_BLOCK:
            self._drop_extension()
            self._pass_zeros()
            return
        header = parse_header(block)
        if header is None:
            self._drop_extension()
            self._resynchronise(self._position, self._position + BLOCK_BYTES, "tar-corrupt", "no sound tar header")
        elif header.typeflag in _EXTENSIONS:
            self._extend(header)
        else:
            self._take_member(header)

    def _take_member(self, header: Header) -> None:
        start = self._position
        extension, self._extension = self._extension, None
        data_offset = self._after_sparse_map(header, start + BLOCK_BYTES)
        name, size, kind = _merge(header, extension, self._global)
        if extension is None or (extension.name is None and not extension.is_lost):
            certain = not (self._after_damage and _may_be_shortened(header.name))
        else:
            certain = not extension.is_lost
        self._after_damage = self._has_ended = False
        is_cut = size > max(self._end - data_offset, 0)
        self._found.append(Member(name, kind, size, start, data_offset, is_cut, certain))
        if is_cut:
            self._overrun(start, data_offset, size)
        else:
            self._position = data_offset + _padded(size)

    def _extend(self, header: Header) -> None:
        """Takes in a pax header or a GNU long name; the structure of the tar holds even if its content does not."""
        start = self._position
        data_offset = start + BLOCK_BYTES
        if header.size > self._end - data_offset:
            self._drop_extension()
            self._overrun(start, data_offset, header.size)
            return
        if self._extension is None and header.typeflag != b"g":
            self._extension = _Extension(start)
        self._position = data_offset + _padded(header.size)
        self._has_ended = False
        if header.size > MAX_EXTENSION_BYTES:
            problem = f"an extended header of {header.size} bytes, more than {MAX_EXTENSION_BYTES}"
        elif self._understand(header.typeflag, self._reader.read(data_offset, header.size)):
            return
        else:
            problem = "a malformed pax header"
        self._damage("tar-corrupt", start, self._position, problem)
        if self._extension is not None:
            self._extension.is_lost = True

    def _understand(self, typeflag: bytes, data: bytes) -> bool:
        """Keeps what an extended header says of the next member, or of all that follow; False if it is malformed."""
        if typeflag in b"LK":
            if typeflag == b"L" and self._extension is not None:
                self._extension.name = data.partition(b"\0")[0]
            return True
        records = parse_pax(data)
        if records is None or not _size_is_sound(records.get(b"size", b"")):
            return False
        if typeflag == b"g":
            self._global |= {name: records[name] for name in (b"path", b"size") if name in records}
        elif self._extension is not None:
            self._extension.take(records)
        return True

    def _after_sparse_map(self, header: Header, position: int) -> int:
        """Old GNU sparse files have more blocks of their map between header and body."""
        goes_on = header.extended
        while goes_on and position + BLOCK_BYTES <= self._end:
            goes_on = self._reader.read(position, BLOCK_BYTES)[504] != 0
            position += BLOCK_BYTES
        return position

    def _overrun(self, start: int, data_offset: int, size: int) -> None:
        """A body that would reach beyond the object: the tar is cut off, or the size is a lie and members follow."""
        reason = f"declares {size} bytes, but only {max(self._end - data_offset, 0)} are left"
        self._resynchronise(start, data_offset, "tar-truncated", reason)

    def _resynchronise(self, start: int, position: int, code: str, reason: str) -> None:
        """Goes on at the next block that is a header, and reports what lies between."""
        self._after_damage = True
        zeros_start = position
        while position + BLOCK_BYTES <= self._end:
            size = min(_SCAN_BYTES, self._end - position) // BLOCK_BYTES * BLOCK_BYTES
            window = self._reader.read(position, size)
            for offset in range(0, size, BLOCK_BYTES):
                block = window[offset : offset + BLOCK_BYTES]
                if block == ZERO_BLOCK:
                    continue
                if may_be_header(block) and parse_header(block) is not None:
                    self._position = position + offset
                    self._damage("tar-corrupt", start, self._position, f"{reason}; went on at the next header")
                    return
                zeros_start = position + offset + BLOCK_BYTES
            position += size
        self._reach_end(start, zeros_start, code, reason)

    def _reach_end(self, start: int, zeros_start: int, code: str, reason: str) -> None:
        """Reports damage after which no header was found; zeros at the tail are a sound end all the same."""
        is_closed = self._end // BLOCK_BYTES * BLOCK_BYTES - zeros_start >= 2 * BLOCK_BYTES
        self._position = zeros_start if is_closed else self._end
        self._has_ended = True
        self._damage(code, start, self._position, reason)

    def _pass_zeros(self) -> None:
        start = self._position
        position = start
        while position < self._end:
            window = self._reader.read(position, min(_SCAN_BYTES, self._end - position))
            rest = window.lstrip(b"\0")
            if rest:
                position += (len(window) - len(rest)) // BLOCK_BYTES * BLOCK_BYTES
                break
            position += len(window)
        self._position = position
        if position - start >= 2 * BLOCK_BYTES:
            self._has_ended = True
        elif position + BLOCK_BYTES <= self._end:
            self._damage("tar-corrupt", start, position, "a single block of zeros where a header should be")
            self._after_damage = True

    def _drop_extension(self) -> None:
        if self._extension is not None:
            reason = "an extended header that no member follows"
            self._damage("tar-corrupt", self._extension.start, self._position, reason)
            self._extension = None

    def _finish(self) -> None:
        """Says how the object ends, if it does not end as a tar should."""
        self._drop_extension()
        start = min(self._position, self._end)
        if any(self._reader.read(start, self._end - start)):
            code = "tar-corrupt" if self._has_ended else "tar-truncated"
            self._damage(code, start, self._end, f"{self._end - start} bytes at the end are no whole header")
        elif not self._has_ended:
            self._damage("tar-no-end", start, self._end, "the two blocks of zeros that end a tar are missing")

    def _damage(self, code: str, start: int, stop: int, reason: str) -> None:
        self._found.append(Damage(code, start, stop, reason))


def _merge(header: Header, extension: _Extension | None, defaults: dict[bytes, bytes]) -> tuple[bytes, int, Kind]:
    """Name, size of the body, and kind of a member: its own header, overruled by what stood before it."""
    name, size, is_sparse = header.name, header.size, header.typeflag == b"S"
    if defaults:
        name = defaults.get(b"path") or name
        size = int(defaults.get(b"size") or size)
    if extension is not None:
        name = name if extension.name is None else extension.name
        size = size if extension.size is None else extension.size
        is_sparse |= extension.is_sparse
    if header.typeflag in _NO_BODY:
        return name, 0, "directory" if header.typeflag == b"5" else "other"
    if is_sparse:
        return name, size, "sparse"
    if header.typeflag not in _FILES:
        return name, size, "other"
    # Tars of 1979 had no type for folders.
    return name, size, "directory" if name.endswith(b"/") and header.typeflag == b"\0" else "file"


def _may_be_shortened(name: bytes) -> bool:
    """Whether writers leave such a name where an extended header, now lost, held the full one: cut, or made ASCII."""
    return len(name) >= 100 or b"?" in name


def _size_is_sound(digits: bytes) -> bool:
    return not digits or (digits.isdigit() and len(digits) <= 20)


def _padded(size: int) -> int:
    return -size % BLOCK_BYTES + size

"""The samples of a tar: one pass that groups members by key, reads the captions, and accounts for everything else.

Members belong together by key over the **whole** tar: writers that work in parallel interleave samples, and readers
that close a sample when the key changes split them. Rows stand in the order in which keys first appear. All columns
of a tar have the same rows; a row without caption is null in that column and stands in its rejects.

Accounting, per column: `num_inputs = rows with a caption + rejects`. An input is a row, or a member that has no row
of its own (a duplicate, an unsafe name, a link); folders are none, and damage is none, since nobody knows what it
hides.

Memory holds the keys, and captions up to a budget; beyond it, captions are read again when they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.sources.block_reader import BlockReader, input_changed, open_blocks, require_unchanged
from pipeline.sources.caption_column import Budget, CaptionColumn
from pipeline.sources.caption_text import MAX_CAPTION_BYTES, Fault, parse_json, shown_names
from pipeline.sources.inputs import InputTar
from pipeline.sources.member_names import RefusedName, shown, split_name
from pipeline.sources.sample_fields import SampleFields
from pipeline.sources.tar_stream import Damage, Member, walk_tar
from schemas.errors import ConfigError
from schemas.rejects import Reject
from schemas.storage import Store

CAPTION_BUDGET_BYTES = 64 * 1024**2
"""Captions of one tar that are kept in memory; those beyond are read a second time."""

MAX_DAMAGE = 100
"""Damage entries of one tar; further ones are summed up in a last one, since the ledger record carries them all."""

_COLUMN = re.compile(r"json\.[A-Za-z0-9_.-]+|(?!json\.)[a-z0-9_][a-z0-9_.-]*")


class _RefusedMember(NamedTuple):
    key: str | None
    code: str
    reason: str
    member: str
    offset: int


class TarScan:
    """What a tar holds: its keys, its captions and all that could not be used."""

    def __init__(self, store: Store, tar: InputTar, columns: Sequence[CaptionColumn]) -> None:
        self.tar = tar
        self.keys: list[str] = []
        """Row order: first appearance in the tar."""
        self.damage: list[Reject] = []
        """Damage of the tar itself; empty if it is whole."""
        self.num_duplicates = 0
        """Members whose name came before; each is one reject."""
        self._store = store
        self._columns = {column.name: column for column in columns}
        self._fields = SampleFields()
        self._refused: list[_RefusedMember] = []

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that were read."""
        return tuple(self._columns)

    def num_captions(self, column: str) -> int:
        """Rows that have a caption: those to encode."""
        return self._columns[column].num_captions

    def num_inputs(self, column: str) -> int:
        """`num_captions(column) + num_rejects(column)`: all rows, and all members without a row."""
        return self.num_captions(column) + self.num_rejects(column)

    def num_rejects(self, column: str) -> int:
        """Entries of `rejects_of(column)` that are not damage of the tar."""
        return len(self.keys) - self.num_captions(column) + len(self._refused)

    def rejects_of(self, column: str) -> list[Reject]:
        """What the column's rejects file lists: damage, then members without a row, then rows without a caption."""
        found = self._columns[column]
        refused = [Reject(has_row=False, **member._asdict()) for member in self._refused]
        missing = {row: (self._missing(found, row), None) for row in found.rows_without_member()}
        rows = sorted({**missing, **found.faults}.items())
        return self.damage + refused + [self._row_reject(found, row, *why) for row, why in rows]

    def captions(self, column: str, start: int, stop: int) -> list[str | None]:
        """The captions of rows `start` to `stop`; None where there is none, as `rejects_of` explains.

        Raises:
            DamagedDataError: The tar was rewritten since it was scanned (`input-changed`).
            StorageError: The store failed.
        """
        found = self._columns[column]
        rows = range(start, min(stop, len(self.keys)))
        texts = {row: found.text(row) for row in rows}
        absent = {row: span for row in rows if texts[row] is None and (span := found.span(row)) is not None}
        if absent:
            texts |= self._read_again(found, absent)
        return [None if text is None else text.decode() for text in texts.values()]

    def _read_again(self, column: CaptionColumn, spans: dict[int, tuple[int, int]]) -> dict[int, bytes]:
        offsets, sizes = zip(*spans.values(), strict=True)
        bodies = self._store.get_ranges(self.tar.path, offsets, sizes)
        require_unchanged(self._store, self.tar)
        texts = {}
        for row, body in zip(spans, bodies, strict=True):
            text = column.extract(body)
            if isinstance(text, Fault):
                raise input_changed(self._store, self.tar, f"at byte {spans[row][0]}: {text.reason}")
            texts[row] = text
        return texts

    def _missing(self, column: CaptionColumn, row: int) -> Fault:
        fields = shown_names(self._fields.of(row))
        return Fault("caption-missing", f"the sample has no member {column.member_field!r}; it has: {fields}")

    def _row_reject(self, column: CaptionColumn, row: int, fault: Fault, offset: int | None) -> Reject:
        member = None if offset is None else shown(f"{self.keys[row]}.{column.member_field}".encode())
        return Reject(key=self.keys[row], code=fault.code, reason=fault.reason, member=member, offset=offset)


def scan_tar(store: Store, tar: InputTar, columns: Sequence[str]) -> TarScan:
    """Reads a tar once, front to back.

    Args:
        store: Where the tar is.
        tar: As `list_inputs` found it.
        columns: Caption columns: a member extension in lower case (`txt`, `caption`), or `json.FIELD` for a field of
            the `json` member: the key of that name, or else nested keys between its dots.

    Raises:
        ConfigError: A column's name is none (`column-invalid`).
        DamagedDataError: The tar is being rewritten (`input-changed`). Damage of the tar itself raises nothing.
        StorageError: The store failed.
    """
    budget = Budget(CAPTION_BUDGET_BYTES)
    scan = _Scan(TarScan(store, tar, [CaptionColumn(name, budget) for name in checked_columns(columns)]))
    with open_blocks(store, tar) as reader:
        for found in walk_tar(reader):
            if isinstance(found, Member):
                scan.add(found, reader)
            else:
                scan.add_damage(found)
    require_unchanged(store, tar)
    return scan.result


class _Scan:
    """Fills a `TarScan`, member by member."""

    def __init__(self, result: TarScan) -> None:
        self.result = result
        self._rows: dict[str, int] = {}
        self._wanted: dict[str, list[CaptionColumn]] = {}
        for column in result._columns.values():
            self._wanted.setdefault(column.member_field, []).append(column)

    def add(self, member: Member, reader: BlockReader) -> None:
        """Takes one member in: a field of a sample, or a reject."""
        if member.kind == "directory":
            return
        name = split_name(member.name) if member.name_is_certain else None
        if name is None:
            self._refuse(
                member, None, "member-name-lost", "its extended header is damaged, so that its name may be cut"
            )
        elif isinstance(name, RefusedName):
            self._refuse(member, None, name.code, name.reason)
        elif member.kind == "other":
            self._refuse(member, name.key, "member-not-a-file", "a link, a device or another special file")
        else:
            self._add_field(member, name.key, name.field, reader)

    def add_damage(self, damage: Damage) -> None:
        """Notes a damage of the tar; after `MAX_DAMAGE` only the last of them, and how many there were."""
        damages = self.result.damage
        reason = f"bytes {damage.start} to {damage.stop}: {damage.reason}"
        if len(damages) < MAX_DAMAGE:
            damages.append(Reject(key=None, code=damage.code, reason=reason, offset=damage.start, has_row=False))
            return
        number = int(found.group(1)) if (found := re.match(r"damage (\d+) of more", damages[-1].reason)) else MAX_DAMAGE
        reason = f"damage {number + 1} of more than are listed; {reason}"
        damages[-1] = Reject(key=None, code=damage.code, reason=reason, offset=damages[-1].offset, has_row=False)

    def _add_field(self, member: Member, key: str, field: str, reader: BlockReader) -> None:
        row = self._row(key)
        fields = self.result._fields
        # Of a member that is cut off, a whole copy may follow.
        if fields.has(row, field) if member.is_cut else not fields.add(row, field):
            self.result.num_duplicates += 1
            self._refuse(member, key, "duplicate-member", "a member of this name came before, and counts")
            return
        columns = self._wanted.get(field, ())
        fault = _why_unread(member) if columns else None
        if fault is not None:
            for column in columns:
                column.put_fault(row, fault, member.header_offset)
        elif columns:
            self._read_captions(member, row, columns, reader.read(member.data_offset, member.size))

    def _read_captions(self, member: Member, row: int, columns: Sequence[CaptionColumn], data: bytes) -> None:
        document = parse_json(data) if any(column.is_json for column in columns) else None
        for column in columns:
            found = column.extract(data) if document is None or not column.is_json else column.extract_parsed(document)
            if isinstance(found, Fault):
                column.put_fault(row, found, member.header_offset)
            else:
                column.put_text(row, found, member.data_offset, member.size)

    def _row(self, key: str) -> int:
        row = self._rows.setdefault(key, len(self._rows))
        if row == len(self.result.keys):
            self.result.keys.append(key)
            self.result._fields.add_row()
            for column in self.result._columns.values():
                column.add_row()
        return row

    def _refuse(self, member: Member, key: str | None, code: str, reason: str) -> None:
        refused = _RefusedMember(key, code, reason, shown(member.name), member.header_offset)
        self.result._refused.append(refused)


def _why_unread(member: Member) -> Fault | None:
    if member.is_cut:
        return Fault("caption-cut-off", f"the member declares {member.size} bytes, but the tar ends before")
    if member.kind == "sparse":
        return Fault("caption-sparse", "the member is stored as a sparse file")
    if member.size > MAX_CAPTION_BYTES:
        return Fault("caption-too-large", f"the member has {member.size} bytes, more than {MAX_CAPTION_BYTES}")
    return None


def checked_columns(columns: Sequence[str]) -> Sequence[str]:
    """The columns as they are, if each is the name of one and none stands twice.

    Raises:
        ConfigError: Code `column-invalid`.
    """
    wrong = [column for column in columns if not _COLUMN.fullmatch(column) or columns.count(column) > 1]
    if wrong or not columns:
        raise ConfigError(
            "column-invalid",
            where="--columns",
            expected="different names: a member extension in lower case such as txt or caption, or json.FIELD",
            actual=", ".join(map(repr, wrong)) or "no column",
            remedy="correct --columns; extensions are compared in lower case, JSON fields exactly",
        )
    return columns

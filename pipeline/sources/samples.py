"""The samples of a tar: one pass that groups members by key, reads captions, finds images, and accounts for the rest.

Members belong together by key over the **whole** tar: writers that work in parallel interleave samples, and readers
that close a sample when the key changes split them. Rows stand in the order in which keys first appear. All columns
of a tar have the same rows; a row without caption is null in that column and stands in its rejects.

Accounting, per column: `num_inputs = rows with a caption + rejects`. An input is a row, or a member that has no row
of its own (a duplicate, an unsafe name, a link); folders are none, and damage is none, since nobody knows what it
hides.

Memory holds the keys, and captions up to a budget; beyond it, captions are read again when they are asked for. Images
always are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.sources.block_reader import BlockReader, input_changed, open_blocks, require_unchanged
from pipeline.sources.caption_column import Budget, CaptionColumn
from pipeline.sources.caption_text import MAX_MEMBER_BYTES, Fault, parse_json, shown_names
from pipeline.sources.column import Column
from pipeline.sources.column_names import checked_columns
from pipeline.sources.image_column import IMAGE_FIELDS, MAX_IMAGE_BYTES, ImageColumn
from pipeline.sources.inputs import InputTar
from pipeline.sources.member_names import RefusedName, shown, split_name
from pipeline.sources.sample_fields import SampleFields
from pipeline.sources.tar_limits import require_rejects, require_rows
from pipeline.sources.tar_stream import Damage, Member, walk_tar
from schemas.latent_manifest import LATENTS_GROUP
from schemas.rejects import Reject
from schemas.storage import Store

CAPTION_BUDGET_BYTES = 64 * 1024**2
"""Captions of one tar that are kept in memory; those beyond are read a second time."""

MAX_DAMAGE = 100
"""Damage entries of one tar; further ones are summed up in a last one, since the ledger record carries them all."""


class _RefusedMember(NamedTuple):
    key: str | None
    code: str
    reason: str
    member: str
    offset: int


class TarScan:
    """What a tar holds: its keys, its captions and all that could not be used."""

    def __init__(
        self, store: Store, tar: InputTar, columns: Sequence[CaptionColumn], images: ImageColumn | None = None
    ) -> None:
        self.tar = tar
        self.keys: list[str] = []
        """Row order: first appearance in the tar."""
        self.damage: list[Reject] = []
        """Damage of the tar itself; empty if it is whole."""
        self.num_duplicates = 0
        """Members whose name came before; each is one reject."""
        self._store = store
        self._captions = {column.name: column for column in columns}
        self._images = images
        self._columns: dict[str, Column] = {**self._captions, **({} if images is None else {images.name: images})}
        self._fields = SampleFields()
        self._refused: list[_RefusedMember] = []

    @property
    def columns(self) -> tuple[str, ...]:
        """The caption columns that were read."""
        return tuple(self._captions)

    def num_captions(self, column: str) -> int:
        """Rows that have a caption, or an image: those to encode."""
        return self._columns[column].num_found

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
        fields = self._fields
        missing = {row: (found.missing(shown_names(fields.of(row))), None) for row in found.rows_without_member()}
        rows = sorted({**missing, **found.faults}.items())
        return self.damage + refused + [self._row_reject(found, row, *why) for row, why in rows]

    def captions(self, column: str, start: int, stop: int) -> list[str | None]:
        """The captions of rows `start` to `stop`; None where there is none, as `rejects_of` explains.

        Raises:
            DamagedDataError: The tar was rewritten since it was scanned (`input-changed`).
            StorageError: The store failed.
        """
        found = self._captions[column]
        rows = range(start, min(stop, len(self.keys)))
        texts = {row: found.text(row) for row in rows}
        absent = {row: span for row in rows if texts[row] is None and (span := found.span(row)) is not None}
        if absent:
            texts |= self._read_again(found, absent)
        return [None if text is None else text.decode() for text in texts.values()]

    def _read_again(self, column: CaptionColumn, spans: dict[int, tuple[int, int]]) -> dict[int, bytes]:
        bodies = self._read_spans(list(spans.values()))
        texts = {}
        for row, body in zip(spans, bodies, strict=True):
            text = column.extract(body)
            if isinstance(text, Fault):
                raise input_changed(self._store, self.tar, f"at byte {spans[row][0]}: {text.reason}")
            texts[row] = text
        return texts

    def image_bytes(self, row: int) -> int:
        """Size of a row's image member; 0 if it has none."""
        assert self._images is not None
        span = self._images.span(row)
        return 0 if span is None else span[1]

    def images(self, start: int, stop: int) -> list[bytes | None]:
        """The image files of rows `start` to `stop`, read now; None where there is none, as `rejects_of` explains.

        Raises:
            DamagedDataError: The tar was rewritten since it was scanned (`input-changed`).
            StorageError: The store failed.
        """
        assert self._images is not None
        rows = range(start, min(stop, len(self.keys)))
        spans = {row: span for row in rows if (span := self._images.span(row)) is not None}
        bodies = self._read_spans(list(spans.values()))
        found = dict(zip(spans, bodies, strict=True))
        return [found.get(row) for row in rows]

    def image_reject(self, row: int, fault: Fault) -> Reject:
        """The reject of an image that was read and turned out to be none."""
        assert self._images is not None
        return self._row_reject(self._images, row, fault, None)

    def _read_spans(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        offsets, sizes = [offset for offset, _ in spans], [size for _, size in spans]
        bodies = self._store.get_ranges(self.tar.path, offsets, sizes)
        require_unchanged(self._store, self.tar)
        return bodies

    def _row_reject(self, column: Column, row: int, fault: Fault, offset: int | None) -> Reject:
        is_there = offset is not None or column.span(row) is not None
        member = shown(f"{self.keys[row]}.{column.field(row)}".encode()) if is_there else None
        return Reject(key=self.keys[row], code=fault.code, reason=fault.reason, member=member, offset=offset)


def scan_tar(store: Store, tar: InputTar, columns: Sequence[str], *, images: bool = False) -> TarScan:
    """Reads a tar once, front to back.

    Args:
        store: Where the tar is.
        tar: As `list_inputs` found it.
        columns: Caption columns: a member extension in lower case (`txt`, `caption`), or `json.FIELD` for a field of
            the `json` member: the key of that name, or else nested keys between its dots.
        images: Whether to find the samples' images too, as the column `latents`. Then there may be no other.

    Raises:
        ConfigError: A column's name is none (`column-invalid`).
        DamagedDataError: The tar is being rewritten (`input-changed`), or holds too many samples or rejects for a shard
            (`tar-too-many`). Damage of the tar itself raises nothing.
        StorageError: The store failed.
    """
    budget = Budget(CAPTION_BUDGET_BYTES)
    captions = [CaptionColumn(name, budget) for name in checked_columns(columns, may_be_none=images)]
    scan = _Scan(TarScan(store, tar, captions, ImageColumn(LATENTS_GROUP) if images else None))
    with open_blocks(store, tar) as reader:
        for found in walk_tar(reader):
            if isinstance(found, Member):
                scan.add(found, reader)
            else:
                scan.add_damage(found)
    require_unchanged(store, tar)
    for column in scan.result._columns:
        require_rejects(scan.result.num_rejects(column), store.locate(tar.path))
    return scan.result


class _Scan:
    """Fills a `TarScan`, member by member."""

    def __init__(self, result: TarScan) -> None:
        self.result = result
        self._where = result._store.locate(result.tar.path)
        self._rows: dict[str, int] = {}
        self._wanted: dict[str, list[CaptionColumn]] = {}
        for column in result._captions.values():
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
        if self.result._images is not None and field in IMAGE_FIELDS:
            self._note_image(self.result._images, member, row, field)
        columns = self._wanted.get(field, ())
        fault = _why_unread(member, "caption", MAX_MEMBER_BYTES) if columns else None
        if fault is not None:
            for column in columns:
                column.put_fault(row, fault, member.header_offset)
        elif columns:
            self._read_captions(member, row, columns, reader.read(member.data_offset, member.size))

    def _note_image(self, images: ImageColumn, member: Member, row: int, field: str) -> None:
        fault = _why_unread(member, "image", MAX_IMAGE_BYTES)
        if fault is None:
            images.put_image(row, field, member.data_offset, member.size)
        else:
            images.put_image_fault(row, field, fault, member.header_offset)

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
            require_rows(row + 1, self._where)
            self.result.keys.append(key)
            self.result._fields.add_row()
            for column in self.result._columns.values():
                column.add_row()
        return row

    def _refuse(self, member: Member, key: str | None, code: str, reason: str) -> None:
        require_rejects(len(self.result._refused) + 1, self._where)
        refused = _RefusedMember(key, code, reason, shown(member.name), member.header_offset)
        self.result._refused.append(refused)


def _why_unread(member: Member, kind: str, max_bytes: int) -> Fault | None:
    if member.is_cut:
        return Fault(f"{kind}-cut-off", f"the member declares {member.size} bytes, but the tar ends before")
    if member.kind == "sparse":
        return Fault(f"{kind}-sparse", "the member is stored as a sparse file")
    if member.size > max_bytes:
        return Fault(f"{kind}-too-large", f"the member has {member.size} bytes, more than {max_bytes}")
    return None

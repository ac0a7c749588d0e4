"""Files as edits of other files: what a damage changed, small enough for git and plain enough to be read."""

from __future__ import annotations

from difflib import SequenceMatcher

_TEXT_BYTES = 2048
_SMALLEST_GAP = 8

Edit = tuple[int, int, str]
"""Bytes [start, stop) of the old file become these, in hex."""


def edits(old: bytes, new: bytes) -> list[Edit]:
    """How to make `new` of `old`. Small files are compared byte by byte, others by 8 bytes, Arrow's alignment."""
    step = 1 if max(len(old), len(new)) < _TEXT_BYTES else 8
    before, after = _blocks(old, step), _blocks(new, step)
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    found: list[Edit] = []
    for kind, first, last, start, stop in matcher.get_opcodes():
        if kind == "equal":
            continue
        begin, end, text = first * step, min(last * step, len(old)), b"".join(after[start:stop]).hex()
        if found and begin - found[-1][1] < _SMALLEST_GAP:
            before_begin, before_end, before_text = found.pop()
            begin, text = before_begin, before_text + old[before_end:begin].hex() + text
        found.append((begin, end, text))
    return found


def apply(old: bytes, changes: list[Edit]) -> bytes:
    """What `edits` was made for."""
    parts, position = [], 0
    for start, stop, text in changes:
        parts += [old[position:start], bytes.fromhex(text)]
        position = stop
    return b"".join([*parts, old[position:]])


def _blocks(data: bytes, step: int) -> list[bytes]:
    return [data[start : start + step] for start in range(0, len(data), step)]

"""From a member's name to the key of its sample and the field it holds.

The rule is WebDataset's: the key is the path up to the first dot of the base name, the rest is the field, in lower
case. `images/0001.seg.PNG` is the field `seg.png` of `images/0001`; folders stay in the key, so that equal base names
in two folders are two samples. A leading `./` is dropped, since whether tar writes it depends on how it was called.

Names come from strangers, and keys become member names and messages: anything that could leave a folder, or cannot be
printed, is refused.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

from schemas.limits import MAX_KEY_BYTES

_SHOWN_CHARACTERS = 300


class SampleField(NamedTuple):
    """A member that is part of a sample."""

    key: str
    field: str


class RefusedName(NamedTuple):
    """A name that cannot be part of a sample, and why: a code of `MEMBER_CODES`."""

    code: str
    reason: str


def split_name(name: bytes) -> SampleField | RefusedName:
    """Splits a member's name as it stands in the tar into key and field."""
    try:
        path = name.decode()
    except UnicodeDecodeError as error:
        return RefusedName("key-not-utf8", f"byte {error.start} of the name is not UTF-8")
    while path.startswith("./"):
        path = path[2:]
    folder, slash, base = path.rpartition("/")
    stem, dot, field = base.partition(".")
    unsafe = _why_unsafe(path, folder + slash + stem)
    if unsafe is not None:
        return RefusedName("key-unsafe", unsafe)
    if not stem:
        return RefusedName("member-without-field", "the base name begins with a dot")
    if not field:
        return RefusedName("member-without-field", "the base name has no extension" + (" after its dot" if dot else ""))
    return SampleField(folder + slash + stem, field.lower())


def shown(name: bytes) -> str:
    """A name for messages, whatever its bytes; long ones shortened."""
    text = name[: 4 * _SHOWN_CHARACTERS].decode(errors="backslashreplace")
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def has_control_characters(text: str) -> bool:
    """Whether the text has characters of Unicode's category Cc, such as newline or NUL."""
    return not text.isprintable() and any(unicodedata.category(character) == "Cc" for character in text)


def _why_unsafe(path: str, key: str) -> str | None:
    # One look at the whole path spares honest names the walk over their segments.
    if "//" in f"/{path}/" or "/." in f"/{path}":
        segments = path.split("/")
        if "" in segments:
            return "the name is absolute, or has an empty segment"
        if "." in segments or ".." in segments:
            return "the name has a segment that is . or .."
    if has_control_characters(path):
        return "the name has control characters"
    num_bytes = len(key.encode())
    return f"the key has {num_bytes} bytes, more than {MAX_KEY_BYTES}" if num_bytes > MAX_KEY_BYTES else None

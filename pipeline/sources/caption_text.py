"""From the bytes of a member to a caption, or to the reason why there is none.

Captions are taken as they stand: only a byte order mark at the beginning is dropped, since it marks an encoding and
is no text. White space and newlines stay. An empty caption is a caption. Nothing is repaired: text that is not UTF-8
is a reject.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from schemas.limits import MAX_CAPTION_BYTES

MAX_MEMBER_BYTES = 4 * 1024**2
"""Largest caption or JSON member that is read. A caption itself may have `schemas.limits.MAX_CAPTION_BYTES`."""

MAX_JSON_DEPTH = 64
"""Deepest nesting of a JSON member. A limit of our own, because Python's depends on its version and on the caller."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_REPEATED = object()
_SHOWN_FIELDS = 20


class Fault(NamedTuple):
    """Why there is no caption: a code of `CAPTION_CODES`, and a sentence."""

    code: str
    reason: str


def read_text(data: bytes) -> bytes | Fault:
    """The caption in a text member, as UTF-8 without byte order mark."""
    data = data.removeprefix(_BYTE_ORDER_MARK)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return Fault("caption-not-utf8", f"byte {error.start} of the caption is not UTF-8 ({error.reason})")
    return _of_bounded_size(data)


def parse_json(data: bytes) -> dict[str, Any] | Fault:
    """The object in a JSON member. Numbers are not interpreted: a huge one costs nothing and harms no caption."""
    try:
        text = data.removeprefix(_BYTE_ORDER_MARK).decode()
        document = json.loads(text, object_pairs_hook=_mark_repeated, parse_int=float)
    except UnicodeDecodeError as error:
        return Fault("caption-not-utf8", f"byte {error.start} of the JSON is not UTF-8 ({error.reason})")
    except RecursionError:
        return _too_deep()
    except ValueError as error:
        return Fault("json-invalid", f"not JSON: {error}")
    if not isinstance(document, dict):
        return Fault("json-invalid", f"a JSON {_kind(document)}, not an object")
    if data.count(b"{") + data.count(b"[") > MAX_JSON_DEPTH and _is_deeper(document, MAX_JSON_DEPTH):
        return _too_deep()
    return document


def find_caption(document: dict[str, Any], field: str) -> bytes | Fault:
    """The caption in `field` of a JSON object: the key of exactly that name, or else nested keys between its dots."""
    value = document.get(field, _find_nested(document, field.split(".")))
    if isinstance(value, Fault):
        return value
    if value is _REPEATED:
        return Fault("json-invalid", f"the field {field!r} stands in the JSON more than once")
    if not isinstance(value, str):
        return Fault("caption-not-text", f"the field {field!r} is a JSON {_kind(value)}, not a string")
    try:
        return _of_bounded_size(value.encode())
    except UnicodeEncodeError as error:
        return Fault("caption-not-utf8", f"character {error.start} of the field {field!r} is half a surrogate pair")


def _of_bounded_size(text: bytes) -> bytes | Fault:
    if len(text) > MAX_CAPTION_BYTES:
        return Fault("caption-too-large", f"the caption has {len(text)} bytes, more than {MAX_CAPTION_BYTES}")
    return text


def shown_names(names: Iterable[str]) -> str:
    """A list of names for a message, shortened."""
    names = list(names)
    text = ", ".join(name[:40] for name in names[:_SHOWN_FIELDS]) or "nothing"
    return text if len(names) <= _SHOWN_FIELDS else f"{text} and {len(names) - _SHOWN_FIELDS} more"


def _find_nested(document: dict[str, Any], names: list[str]) -> Any:
    value: Any = document
    for name in names:
        if value is _REPEATED:
            return value
        if not isinstance(value, dict) or name not in value:
            return Fault(
                "caption-missing", f"the JSON has no field {'.'.join(names)!r}; it has: {shown_names(document)}"
            )
        value = value[name]
    return value


def _mark_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON leaves open which of two values of one name counts, and readers differ: neither does."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                found[name] = _REPEATED
            seen.add(name)
    return found


def _is_deeper(document: Any, depth: int) -> bool:
    level = [document]
    while level and depth >= 0:
        depth -= 1
        level = [
            child
            for value in level
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, (dict, list))
        ]
    return bool(level)


def _too_deep() -> Fault:
    return Fault("json-invalid", f"the JSON is nested deeper than {MAX_JSON_DEPTH} levels")


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", float: "number"}
    return kinds[type(value)]

"""Brace and wildcard patterns in input URLs, as shells and WebDataset spell them.

`{00000..00127}` counts, keeping the leading zeros; `{0..10..2}` counts in steps; `{a,b}` lists, and may be nested.
`*` and `?` match within one segment of the path, `[a-c]` and `[!a-c]` one character, `**` as a whole segment any
number of folders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from schemas.errors import ConfigError

MAX_NAMES = 1_000_000
"""A brace pattern that names more tars than this is a slip of the pen."""

_RANGE = re.compile(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})(?:\.\.(-?[0-9]{1,18}))?")


def has_pattern(path: str) -> bool:
    """Whether the path has any of the characters that patterns are made of."""
    return any(character in path for character in "*?[{")


def has_wildcard(segment: str) -> bool:
    """Whether a segment stands for names that only a listing can tell."""
    return any(character in segment for character in "*?[")


def expand_braces(pattern: str) -> list[str]:
    """All paths that a pattern with braces names, in order; the pattern itself if it has none.

    Raises:
        ConfigError: Braces do not match, or name too many paths (`input-pattern-invalid`).
    """
    opening = pattern.find("{")
    if opening < 0:
        if "}" in pattern:
            raise _invalid(pattern, "a } without its {")
        return [pattern]
    closing = _closing(pattern, opening)
    before, inside, after = pattern[:opening], pattern[opening + 1 : closing], pattern[closing + 1 :]
    choices = [choice for part in _choices(pattern, inside) for choice in part]
    rests = expand_braces(after)
    if len(choices) * len(rests) > MAX_NAMES:
        raise _invalid(pattern, f"{len(choices) * len(rests)} names, more than {MAX_NAMES}")
    return [before + choice + rest for choice in choices for rest in rests]


def match_segments(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the segments of a path match those of a pattern; hidden names only match where the dot is spelled out."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return match_segments(path, pattern[1:]) or (
            bool(path) and not path[0].startswith(".") and match_segments(path[1:], pattern)
        )
    return bool(path) and match_segment(path[0], pattern[0]) and match_segments(path[1:], pattern[1:])


def match_segment(name: str, pattern: str) -> bool:
    """Whether one segment matches, as `match_segments` says."""
    return fnmatchcase(name, pattern) and (pattern.startswith(".") or not name.startswith("."))


def _choices(pattern: str, inside: str) -> list[list[str]]:
    parts = _split_commas(inside)
    if len(parts) > 1:
        return [expand_braces(part) for part in parts]
    counted = _RANGE.fullmatch(inside)
    if counted is None:
        raise _invalid(pattern, f"{{{inside}}} is neither a range such as {{000..127}} nor a list such as {{a,b}}")
    return [_count(pattern, *counted.groups())]


def _count(pattern: str, first: str, last: str, step: str | None) -> list[str]:
    padded = any(len(number.lstrip("-")) > 1 and number.lstrip("-").startswith("0") for number in (first, last))
    width = max(len(first), len(last)) if padded else 0
    start, stop, stride = int(first), int(last), abs(int(step or 1))
    if stride == 0 or abs(stop - start) // stride >= MAX_NAMES:
        raise _invalid(pattern, f"a step of 0, or more than {MAX_NAMES} names")
    numbers = range(start, stop + 1, stride) if start <= stop else range(start, stop - 1, -stride)
    return [f"{number:0{width}d}" for number in numbers]


def _closing(pattern: str, opening: int) -> int:
    depth = 0
    for position in range(opening, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[position], 0)
        if depth == 0:
            return position
    raise _invalid(pattern, "a { without its }")


def _split_commas(inside: str) -> list[str]:
    parts, depth = [""], 0
    for character in inside:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _invalid(pattern: str, actual: str) -> ConfigError:
    return ConfigError(
        "input-pattern-invalid",
        where=pattern,
        expected="ranges {00000..00127}, lists {a,b}, and the wildcards * ? [] **",
        actual=actual,
        remedy="correct the pattern; quote it, so that the shell does not expand it first",
    )

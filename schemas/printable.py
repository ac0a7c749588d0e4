"""What may be printed of text that a stranger wrote.

Keys, captions, names of members and objects, and all that errors quote of them may hold what steers a terminal:
colours, the window's title, a cursor that goes back, letters that run from right to left, or a line break with a line
behind it that looks like one of ours. People see them escaped. Stored documents and `--json` keep every character.
"""

from __future__ import annotations

import json

_OUR_BREAK = "\n    "
"""Between the lines of a list in an error of ours. A stranger's may pass for it, but only indented, below our words."""


def printable(text: str) -> str:
    r"""The text on one line, what has no shape of its own escaped as Python does it: `\n`, `\x1b`, `\u202e`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """The same, but for line breaks that are followed by four spaces: those of our own lists."""
    return _OUR_BREAK.join(printable(line) for line in text.split(_OUR_BREAK))


def printable_json(document: object) -> str:
    """JSON over several lines that says exactly what `document` does, without a character that steers a terminal."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    # Inside of strings JSON escapes the first 32 itself: what is left of line breaks is between values.
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)

"""A labelled picture of pictures: prompts downwards, with their text at the left, subsets of encoders across."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_GAP = 8
_BACKGROUND, _INK = (255, 255, 255), (32, 32, 32)
_MIN_SIDE = 128
_MAX_TEXT_LINES = 12


def draw_grid(
    pictures: Sequence[Sequence[Image.Image]], row_labels: Sequence[str], column_labels: Sequence[str]
) -> Image.Image:
    """Draws a grid. Small pictures are enlarged, pixel by pixel, so that labels are legible beside them.

    Args:
        pictures: R rows of C pictures, all of one size.
        row_labels: R texts, at the left; wrapped, and cut where a row is full.
        column_labels: C texts, on top; wrapped.
    """
    assert pictures
    assert len(pictures) == len(row_labels)
    assert all(len(row) == len(column_labels) > 0 for row in pictures)
    width, height = _enlarged(pictures[0][0])
    font_size = max(13, min(width, height) // 14)
    font = ImageFont.load_default(font_size)
    line = font_size + font_size // 3
    text_width = max(160, width)
    heads = [_wrap(text, font, width) for text in column_labels]
    head_height = max(len(lines) for lines in heads) * line
    left, top = text_width + 2 * _GAP, head_height + 2 * _GAP
    size = left + len(column_labels) * (width + _GAP), top + len(pictures) * (height + _GAP)
    grid = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(grid)
    for column, lines in enumerate(heads):
        x = left + column * (width + _GAP) + width // 2
        for number, text in enumerate(lines):
            draw.text((x, _GAP + number * line), text, fill=_INK, font=font, anchor="ma")
    for row, label in enumerate(row_labels):
        y = top + row * (height + _GAP)
        for number, text in enumerate(_cut(_wrap(label, font, text_width), min(_MAX_TEXT_LINES, height // line))):
            draw.text((_GAP, y + number * line), text, fill=_INK, font=font)
        for column, picture in enumerate(pictures[row]):
            shown = picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
            grid.paste(shown, (left + column * (width + _GAP), y))
    return grid


def _enlarged(picture: Image.Image) -> tuple[int, int]:
    factor = -(-_MIN_SIDE // min(picture.size))
    return picture.width * factor, picture.height * factor


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines no wider than `width`; a word that is wider alone is broken."""
    lines = [""]
    for word in text.split() or ["(empty)"]:
        candidate = f"{lines[-1]} {word}".strip()
        if font.getlength(candidate) <= width:
            lines[-1] = candidate
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def _cut(lines: list[str], count: int) -> list[str]:
    count = max(1, count)
    return lines if len(lines) <= count else [*lines[: count - 1], lines[count - 1][:-1] + "…"]

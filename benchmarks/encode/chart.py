"""A bar chart as SVG: no library is needed to draw bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _LABELS, _BAR, _GAP, _TOP = 860, 330, 20, 8, 44
_SVG = 'xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="13"'


@dataclass(frozen=True)
class Bar:
    """A bar.

    Attributes:
        label: Before it.
        value: Its length.
        is_ours: Which of two colours it has.
    """

    label: str
    value: float
    is_ours: bool


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """An SVG document: horizontal bars, each with its label and value, from zero."""
    height = _TOP + len(bars) * (_BAR + _GAP) + _GAP
    longest = max(bar.value for bar in bars)
    lines = [
        f'<svg {_SVG} viewBox="0 0 {_WIDTH} {height}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="26" font-size="15" fill="#222222">{escape(title)}</text>',
    ]
    for number, bar in enumerate(bars):
        top = _TOP + number * (_BAR + _GAP)
        length = max(1.0, (_WIDTH - _LABELS - 90) * bar.value / longest)
        colour = "#2266aa" if bar.is_ours else "#b0b0b0"
        middle = top + _BAR - 5
        lines += [
            f'<text x="{_LABELS - 8}" y="{middle}" text-anchor="end" fill="#222222">{escape(bar.label)}</text>',
            f'<rect x="{_LABELS}" y="{top}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>',
            f'<text x="{_LABELS + length + 6:.1f}" y="{middle}" fill="#222222">{bar.value:,.1f}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])

"""Every picture and every label is where it belongs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFont

from trainer.grid import _cut, _wrap, draw_grid

COLORS = [(250, 0, 0), (0, 200, 0), (0, 0, 250), (220, 200, 0), (0, 200, 220), (200, 0, 200)]


@pytest.mark.parametrize("size", [(16, 16), (64, 32), (300, 200)])
def test_pictures_stand_in_rows_and_columns(size: tuple[int, int]) -> None:
    pictures = [[Image.new("RGB", size, COLORS[3 * row + column]) for column in range(3)] for row in range(2)]
    grid = np.asarray(draw_grid(pictures, ["first", "second"], ["a", "b", "c"]))
    places = []
    for color in COLORS:
        ys, xs = np.nonzero((grid == color).all(axis=-1))
        places.append((ys.min(), xs.min(), ys.max() + 1, xs.max() + 1))
        # Whole: nothing is drawn over it, and it keeps its proportions.
        assert len(ys) == (ys.max() + 1 - ys.min()) * (xs.max() + 1 - xs.min())
        assert (xs.max() + 1 - xs.min()) * size[1] == (ys.max() + 1 - ys.min()) * size[0]
        assert min(xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()) >= 128
    tops, lefts = [place[0] for place in places], [place[1] for place in places]
    assert tops[:3] == [tops[0]] * 3 < tops[3:] == [tops[3]] * 3
    assert lefts[:3] == sorted(set(lefts)) == lefts[3:]


def ink(grid: Image.Image, box: tuple[int, int, int, int]) -> int:
    return int((np.asarray(grid.crop(box).convert("L")) < 128).sum())


def test_labels_are_drawn_beside_and_above() -> None:
    pictures = [[Image.new("RGB", (128, 128), (255, 255, 255))] for _ in range(2)]
    labelled = draw_grid(pictures, ["word " * 200, "x" * 300], ["all encoders"])
    bare = draw_grid(pictures, ["i", "i"], ["all encoders"])
    assert labelled.size == bare.size
    width, height = labelled.size
    top = height - 2 * (128 + 8)
    for row in range(2):
        beside = (0, top + row * 136, width - 144, top + (row + 1) * 136)
        assert ink(labelled, beside) > 20 * ink(bare, beside) > 0
    # Long texts stay out of the pictures, which are white here.
    assert ink(labelled, (width - 136, top, width, height)) == 0
    assert ink(labelled, (width - 136, 0, width, top)) > 50


def test_texts_are_wrapped_at_words_and_cut_at_the_end() -> None:
    font = ImageFont.load_default(16)
    lines = _wrap("a picture of several red circles on a wooden table", font, 120)
    assert len(lines) > 2
    assert " ".join(lines) == "a picture of several red circles on a wooden table"
    assert all(font.getlength(line) <= 120 for line in lines)
    broken = _wrap("y" * 100, font, 120)
    assert "".join(broken) == "y" * 100
    assert all(font.getlength(line) <= 120 for line in broken)
    assert _wrap("", font, 120) == ["(empty)"]
    assert _cut(["one", "two", "three"], 2) == ["one", "tw…"]
    assert _cut(["one", "two"], 2) == ["one", "two"]

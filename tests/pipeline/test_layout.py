"""Chunks and rows are as large as readers accept, and no larger."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.caption_options import CaptionOptions
from pipeline.layout import choose_layout
from schemas.errors import ConfigError
from schemas.identity import CaptionIdentity
from schemas.limits import MAX_CHUNK_BYTES, MAX_CHUNK_ROWS, MAX_ROW_BYTES
from schemas.manifest import Layout, require_readable
from schemas.storage import Store
from tests.datasets import make_identity


@pytest.fixture
def nothing(tmp_path: Path) -> Store:
    """Where no dataset is yet."""
    return Store(str(tmp_path))


def identity(row_bytes: int) -> CaptionIdentity:
    """Of rows of so many bytes: T5 is as wide as that takes."""
    captions = make_identity()
    clips = captions.clip_l.row_bytes + captions.clip_g.row_bytes
    t5 = captions.t5.model_copy(update={"max_tokens": 1, "hidden_size": (row_bytes - clips) // 2})
    made = captions.model_copy(update={"t5": t5})
    assert made.row_bytes == row_bytes
    return made


@pytest.mark.parametrize(
    ("row_bytes", "most"),
    [(2**16, 2**15), (2**16 + 2, 2**15 - 1), (MAX_ROW_BYTES, 32), (2**11, 2**20), (2**11 - 2, MAX_CHUNK_ROWS)],
)
def test_the_most_rows_of_a_chunk(nothing: Store, row_bytes: int, most: int) -> None:
    captions = identity(row_bytes)
    layout = choose_layout(CaptionOptions(chunk_rows=most), nothing, captions, None)
    assert layout.chunk_rows == most
    assert most * row_bytes <= MAX_CHUNK_BYTES
    require_readable(layout, row_bytes)
    with pytest.raises(ConfigError, match="option-out-of-range") as caught:
        choose_layout(CaptionOptions(chunk_rows=most + 1), nothing, captions, None)
    assert caught.value.where == "--chunk-rows"
    assert f"1 to {most:,} rows: of {row_bytes:,} bytes" in caught.value.expected
    assert caught.value.actual == f"{most + 1:,}"


def test_a_row_that_is_too_large(nothing: Store) -> None:
    with pytest.raises(ConfigError, match="option-out-of-range") as caught:
        choose_layout(CaptionOptions(chunk_rows=1), nothing, identity(MAX_ROW_BYTES + 2), None)
    assert (caught.value.where, caught.value.actual) == ("the tensors of a row", "67,108,866 bytes")


@pytest.mark.parametrize(("rows", "row_bytes"), [(2**15 + 1, 2**16), (1, MAX_ROW_BYTES + 1)])
def test_a_reader_refuses_what_is_larger(rows: int, row_bytes: int) -> None:
    with pytest.raises(ValueError, match="more than"):
        require_readable(Layout(container="arrow", chunk_rows=rows, part_bytes=1), row_bytes)

"""A prompt has as many bytes as a caption may have, and not one more."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.prompts import read_prompts
from schemas.errors import ConfigError
from schemas.limits import MAX_CAPTION_BYTES


def test_the_longest_prompt(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    longest = "ü" * (MAX_CAPTION_BYTES // 2)
    path.write_text(f"\ufeff{longest}  \r\nshort\n", encoding="utf-8")
    assert read_prompts(path) == [longest, "short"]
    path.write_text(f"short\n{longest}x\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="prompts-too-large") as caught:
        read_prompts(path)
    assert (caught.value.where, caught.value.actual) == (f"{path}, line 2", f"{MAX_CAPTION_BYTES + 1} bytes")

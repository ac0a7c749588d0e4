"""Datasets of prompts as `encode-prompts` writes them, of made-up tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from schemas.identity import Padding
from tests.datasets import Sample, make_manifest, write_dataset
from trainer.prompts import EMPTY_KEY


def write_prompts(folder: Path, texts: Sequence[str], *, empty: bool = True, padding: Padding = "max_length") -> str:
    """Writes prompts, and the empty one; returns the URL."""
    rows = [Sample(f"{number:06d}", text) for number, text in enumerate(texts)]
    if empty:
        rows.append(Sample(EMPTY_KEY, ""))
    write_dataset(str(folder), make_manifest(padding=padding), {"txt": {"prompts": rows}})
    return str(folder)

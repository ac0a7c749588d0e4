"""Captions as long as real ones are, of words that the demo's T5 vocabulary has."""

from __future__ import annotations

import io
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.tokenizers import CaptionTokenizer

_SHORTEST = 5
_IMAGE = b"\xff" * 2000
"""Stands for the image beside each caption."""


@dataclass(frozen=True)
class Lengths:
    """A lognormal distribution of T5 tokens a caption, EOS included, clipped at 5 and at T5's limit.

    Attributes:
        mean: Of the distribution before it is clipped.
        sigma: Standard deviation of the logarithm.
    """

    mean: float
    sigma: float


KINDS = {"short": Lengths(25, 0.45), "medium": Lengths(60, 0.3), "long": Lengths(120, 0.25)}
"""Alt-text of the web; synthetic captions of a few sentences; the longest ones in use."""


def captions_of(kind: str, count: int, tokenizer: CaptionTokenizer, *, seed: int = 0) -> list[str]:
    """Captions with lengths of a kind, nearly all of them different.

    Args:
        kind: Of `KINDS`.
        count: How many.
        tokenizer: T5's; a word of a caption is one token of it.
        seed: Another one gives other captions.
    """
    draw, lengths = np.random.default_rng([seed, list(KINDS).index(kind)]), KINDS[kind]
    location = np.log(lengths.mean) - lengths.sigma**2 / 2
    num_tokens = np.clip(np.rint(draw.lognormal(location, lengths.sigma, count)), _SHORTEST, tokenizer.max_tokens)
    words = np.array(_words(tokenizer))
    # The last token is EOS.
    return [" ".join(draw.choice(words, int(tokens) - 1)) for tokens in num_tokens]


def length_figures(lengths: list[int]) -> dict[str, float]:
    """Mean and percentiles."""
    figures = {f"p{share}": float(np.percentile(lengths, share)) for share in (5, 50, 95)}
    return {"mean": round(float(np.mean(lengths)), 2), **figures, "max": float(max(lengths))}


def write_tars(folder: Path, captions: list[str], num_tars: int) -> None:
    """Tars of captions beside something of an image's place, an equal share each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, share in enumerate(np.array_split(np.arange(len(captions)), num_tars)):
        with tarfile.open(folder / f"{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in share:
                for suffix, data in (("jpg", _IMAGE), ("txt", captions[row].encode())):
                    info = tarfile.TarInfo(f"{row:09d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def _words(tokenizer: CaptionTokenizer) -> list[str]:
    """Words that are one token, found among the usual ones of captions."""
    found = [word for word, ids in zip(_CANDIDATES, tokenizer(_CANDIDATES).ids, strict=True) if len(ids) == 2]
    assert len(found) > 50, found
    return found


_CANDIDATES = re.split(
    r"\s+",
    """man woman photo image picture person people dog cat white black red blue green yellow brown small large
young old little sitting standing wearing holding walking riding looking playing eating flying running front side top
street city house building room table chair window door wall floor grass tree trees sky water beach ocean river lake
mountain snow sun sunset night day light dark bright shirt hat dress jacket hair face hand head car bus train truck
bicycle boat plane horse bird sheep cow elephant flower food plate pizza cake fruit cup glass bottle kitchen phone
computer book paper sign clock ball game field park road bridge boy girl child group crowd painting drawing portrait
landscape view scene art style colorful vintage modern beautiful with near under over between around through behind
wooden metal stone gold silver pink purple orange grey round square tall open closed empty full digital poster""",
)

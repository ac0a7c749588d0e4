"""`python -m pipeline verify`: is what a dataset stores what its manifest says?

Rows are drawn at random and their captions encoded again: in float32, one at a time, by the encoders that the manifest
names. bfloat16 leaves cosines of 0.9999 and more; what is further away is compared with what usual mistakes would have
led to (another layer, other padding, another tokenizer, another row), and with what the manifest's own dtype leaves.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, Literal

import torch
import tyro

from pipeline.verification.encoder_check import EncoderCheck
from pipeline.verification.reference import EncoderOptions
from pipeline.verification.report import Report, report_lines
from pipeline.verification.results import EncoderResult, RowResult
from pipeline.verification.sampling import SampledRow, sample_rows
from schemas.dataset import Dataset, open_dataset
from schemas.errors import ConfigError
from schemas.identity import ENCODER_NAMES
from schemas.manifest import MANIFEST_PATH
from schemas.printable import printable, printable_json


class VerifyStatus(IntEnum):
    """What `verify` answers to the shell; as with the other commands, 2 is wrong usage."""

    SOUND = 0
    """Every row drawn is as near to its encoding in float32 as was asked for."""
    ERROR = 1
    """Nothing could be compared; the message says why."""
    DIFFERENT = 3
    """Some row is not; the report says which, and why."""


@dataclass(frozen=True)
class VerifyConfig:
    """Encode rows of a dataset again, in float32 and one at a time, and compare.

    Everything else is in the manifest. Memory: one encoder in float32 (19 GB for T5-XXL), and about a MB for each row.
    """

    url: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="URL")]
    """The dataset: a folder or bucket URL."""

    sample: int = 32
    """Rows to draw, over all caption columns and shards."""

    seed: int = 0
    """Of the draw: the same seed draws the same rows."""

    min_cosine: float = 0.9995
    """What every token's cosine with the float32 one must reach. float8 needs less; see what it has."""

    diagnose: int = 8
    """Rows of each encoder to look for a reason of, the worst first."""

    shown: int = 10
    """Rows to print, the worst first."""

    json: bool = False
    """Print one JSON document with all figures instead."""

    allow_differences: bool = False
    """Go on if the weights or the tokenizer found are not those that the manifest has digests of."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the encoders run. auto: a GPU if there is one."""

    clip_l: EncoderOptions = field(default_factory=EncoderOptions)
    """Where CLIP-L/14 is, if not where the manifest says."""

    clip_g: EncoderOptions = field(default_factory=EncoderOptions)
    """Where OpenCLIP bigG/14 is, if not where the manifest says."""

    t5: EncoderOptions = field(default_factory=EncoderOptions)
    """Where T5 is, if not where the manifest says."""


def run(config: VerifyConfig) -> VerifyStatus:
    """Draws, compares and prints.

    Raises:
        EncodeOnceError: The dataset or the encoders cannot be read, or they are not those of the manifest.
    """
    _require_sound(config)
    # Of float32, and not of what a GPU makes of it if that is faster.
    torch.set_float32_matmul_precision("highest")
    dataset = open_dataset(config.url)
    where = dataset.store.locate(MANIFEST_PATH)
    _say(f"drawing {config.sample} of {sum(map(dataset.num_rows, dataset.caption_groups)):,} rows of {config.url}")
    rows = sample_rows(dataset, config.sample, config.seed)
    report = _report(config, dataset, rows, where)
    if config.json:
        print(printable_json(report.to_json()))
    else:
        print("\n".join(map(printable, report_lines(report, shown=config.shown))))
    return VerifyStatus.DIFFERENT if report.num_unsound else VerifyStatus.SOUND


def _report(config: VerifyConfig, dataset: Dataset, rows: list[SampledRow], where: str) -> Report:
    found: dict[str, list[EncoderResult]] = {}
    differences: list[str] = []
    for name in ENCODER_NAMES:
        check = EncoderCheck(
            identity=dataset.manifest.captions.encoder(name),
            options=getattr(config, name),
            min_cosine=config.min_cosine,
            num_diagnosed=config.diagnose,
            allow_differences=config.allow_differences,
            device=_device(config),
            where=where,
            say=_say,
        )
        found[name], lines = check.run(rows)
        differences += lines
    results = [RowResult(row, {name: found[name][r] for name in ENCODER_NAMES}) for r, row in enumerate(rows)]
    results.sort(key=lambda result: (result.is_sound, result.cosine))
    return Report(config.url, dataset.manifest, results, config.seed, config.min_cosine, differences)


def _require_sound(config: VerifyConfig) -> None:
    checks = (
        ("--sample", config.sample, config.sample > 0, "a number above 0"),
        ("--min-cosine", config.min_cosine, 0 < config.min_cosine < 1, "a number between 0 and 1"),
        ("--diagnose", config.diagnose, config.diagnose >= 0, "0 or more"),
        ("--shown", config.shown, config.shown >= 0, "0 or more"),
    )
    for where, value, is_right, expected in checks:
        if not is_right:
            raise ConfigError(
                "option-out-of-range",
                where=where,
                expected=expected,
                actual=str(value),
                remedy="choose one, or leave the option out",
            )


def _device(config: VerifyConfig) -> str:
    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _say(text: str) -> None:
    """On stderr: stdout is the report's."""
    print(printable(text), file=sys.stderr, flush=True)

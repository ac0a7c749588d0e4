"""`python -m pipeline verify`: compares what a dataset stores with what its manifests say.

Rows are drawn at random and encoded again in float32, one at a time, by the encoders that the manifests name: captions
as they are stored, images as they are in the tars. bfloat16 leaves cosines of 0.9999 and more of captions and 0.9997 of
latents. A caption's row that is further away is compared with what usual mistakes would have led to (another layer,
other padding, another tokenizer, another row), and with what the manifest's own dtype leaves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, Literal

import torch
import tyro

from pipeline.process_settings import require_exact_float32
from pipeline.verification.encoder_check import EncoderCheck
from pipeline.verification.latent_check import LatentCheck, VaeOptions
from pipeline.verification.latent_report import LatentReport, latent_report_lines
from pipeline.verification.reference import EncoderOptions
from pipeline.verification.report import Report, report_lines
from pipeline.verification.results import EncoderResult, RowResult
from pipeline.verification.sampling import sample_latents, sample_rows
from pipeline.verification.source_images import SourceImages
from schemas.dataset import Dataset, open_dataset
from schemas.errors import ConfigError
from schemas.identity import ENCODER_NAMES
from schemas.latent_manifest import LATENTS_GROUP
from schemas.manifest import LATENT_MANIFEST_PATH, MANIFEST_PATH
from schemas.printable import printable, printable_json


class VerifyStatus(IntEnum):
    """What `verify` answers to the shell; as with the other commands, 2 is wrong usage."""

    SOUND = 0
    """Every row drawn is as near to its encoding in float32 as was asked for; pixels are equal."""
    ERROR = 1
    """Nothing could be compared; the message says why."""
    DIFFERENT = 3
    """Some row is not; the report says which, and why."""


@dataclass(frozen=True)
class VerifyConfig:
    """Encode rows of a dataset again, in float32 and one at a time, and compare.

    Everything else is in the manifests. Memory: one encoder in float32 (19 GB for T5-XXL), and about a MB for each row.
    """

    url: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="URL")]
    """The dataset: a folder or bucket URL."""

    groups: tuple[str, ...] = ()
    """Column groups to check, such as `txt latents`. Default: all. The latents' images are read again from the tars."""

    sample: int = 32
    """Rows to draw, over all caption columns and shards; of latents as many again."""

    seed: int = 0
    """Of the draw: the same seed draws the same rows."""

    min_cosine: float = 0.9995
    """What every token's cosine with the float32 one must reach. float8 needs less; see what it has."""

    min_latent_cosine: float = 0.998
    """What every latent's cosine with the float32 one must reach, all of its values taken as one vector. Of kind
    `pixels` all values must be equal."""

    input: str | None = None
    """Where the tars of the latents are now, if not where they were encoded from: folder, prefix or pattern, as for
    `encode`."""

    diagnose: int = 8
    """Rows of each text encoder to look for a reason of, the worst first."""

    shown: int = 10
    """Rows to print, the worst first."""

    json: bool = False
    """Print one JSON document with all figures instead."""

    allow_differences: bool = False
    """Go on if weights or a tokenizer found are not those that the manifest has digests of."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the encoders run. auto: a GPU if there is one."""

    clip_l: EncoderOptions = field(default_factory=EncoderOptions)
    """Where CLIP-L/14 is, if not where the manifest says."""

    clip_g: EncoderOptions = field(default_factory=EncoderOptions)
    """Where OpenCLIP bigG/14 is, if not where the manifest says."""

    t5: EncoderOptions = field(default_factory=EncoderOptions)
    """Where T5 is, if not where the manifest says."""

    vae: VaeOptions = field(default_factory=VaeOptions)
    """Where the autoencoder is, if not where the manifest says."""


def run(config: VerifyConfig) -> VerifyStatus:
    """Draws, compares and prints.

    Raises:
        EncodeOnceError: The dataset, the encoders or the tars cannot be read, or they are not those of the manifests.
    """
    _require_sound(config)
    require_exact_float32()
    dataset = open_dataset(config.url)
    groups = _groups(config, dataset)
    captions = [group for group in groups if group != LATENTS_GROUP]
    # Of a dataset without any group: drawing says that there is nothing.
    report = _captions(config, dataset, captions) if captions or not groups else None
    latents = _latents(config, dataset) if LATENTS_GROUP in groups else None
    if config.json:
        found = {"url": config.url, "seed": config.seed} if report is None else report.to_json()
        print(printable_json(found | {"latents": None if latents is None else latents.to_json()}))
    else:
        lines = [] if report is None else [*report_lines(report, shown=config.shown)]
        lines += [""] if report is not None and latents is not None else []
        lines += [] if latents is None else [*latent_report_lines(latents, shown=config.shown)]
        print("\n".join(map(printable, lines)))
    is_sound = not any(found.num_unsound for found in (report, latents) if found is not None)
    return VerifyStatus.SOUND if is_sound else VerifyStatus.DIFFERENT


def _groups(config: VerifyConfig, dataset: Dataset) -> list[str]:
    """The groups to check.

    Raises:
        ConfigError: The dataset lacks one of them.
    """
    missing = [group for group in config.groups if group not in dataset.groups]
    if missing:
        raise ConfigError(
            "group-not-found",
            where="--groups",
            expected=f"column groups of the dataset: {', '.join(dataset.groups)}",
            actual=", ".join(missing),
            remedy="choose among these, or leave the option out to check all",
        )
    return [group for group in dataset.groups if not config.groups or group in config.groups]


def _captions(config: VerifyConfig, dataset: Dataset, groups: Sequence[str]) -> Report:
    _say(f"drawing {config.sample} of {sum(map(dataset.num_rows, groups)):,} rows of {config.url}")
    rows = sample_rows(dataset, groups, config.sample, config.seed)
    where = dataset.store.locate(MANIFEST_PATH)
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


def _latents(config: VerifyConfig, dataset: Dataset) -> LatentReport:
    assert dataset.latents is not None
    _say(f"drawing {config.sample} of {dataset.num_rows(LATENTS_GROUP):,} rows of latents of {config.url}")
    check = LatentCheck(
        identity=dataset.latents.latents,
        options=config.vae,
        images=SourceImages(dataset, config.input),
        min_cosine=config.min_latent_cosine,
        allow_differences=config.allow_differences,
        device=_device(config),
        where=dataset.store.locate(LATENT_MANIFEST_PATH),
        say=_say,
    )
    results, differences = check.run(sample_latents(dataset, config.sample, config.seed))
    results.sort(key=lambda result: (result.is_sound, result.cosine))
    return LatentReport(dataset.latents, results, config.min_latent_cosine, differences)


def _require_sound(config: VerifyConfig) -> None:
    checks = (
        ("--sample", config.sample, config.sample > 0, "a number above 0"),
        ("--min-cosine", config.min_cosine, 0 < config.min_cosine < 1, "a number between 0 and 1"),
        ("--min-latent-cosine", config.min_latent_cosine, 0 < config.min_latent_cosine < 1, "a number between 0 and 1"),
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

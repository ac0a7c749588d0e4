"""What `verify` found, for people and for machines."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.verification.results import EncoderResult, RowResult
from schemas.identity import ENCODER_NAMES
from schemas.manifest import Manifest

_CAPTION_CHARS = 40
_NOT_DIAGNOSED = "not diagnosed"


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        url: The dataset.
        manifest: Its.
        rows: Worst first.
        seed: Of the draw.
        min_cosine: What a row's cosines were to reach.
        differences: Fields in which the encoders used differ from the manifest's.
    """

    url: str
    manifest: Manifest
    rows: Sequence[RowResult]
    seed: int
    min_cosine: float
    differences: Sequence[str]

    @property
    def num_unsound(self) -> int:
        """Rows that are not what the manifest says."""
        return sum(not row.is_sound for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """One JSON document; a relative error that is infinite is null."""
        return {
            "url": self.url,
            "identity_sha256": self.manifest.identity_sha256,
            "seed": self.seed,
            "min_cosine": self.min_cosine,
            "num_rows": len(self.rows),
            "num_below": self.num_unsound,
            "cosine": min(row.cosine for row in self.rows),
            "differences": list(self.differences),
            "rows": [_row_json(row) for row in self.rows],
        }


def report_lines(report: Report, *, shown: int) -> Iterator[str]:
    """For people.

    Args:
        report: What was found.
        shown: Rows to print.
    """
    if report.differences:
        yield "! The encoders used here are not the manifest's (manifest -> here):"
        yield from (f"!   {line}" for line in report.differences)
        yield ""
    yield from _encoder_table(report)
    yield ""
    yield from _row_table(report, shown)
    yield ""
    yield from _verdict(report)


def _encoder_table(report: Report) -> Iterator[str]:
    yield "encoder  tensor    worst cosine   of a whole   relative error: most   median   computed, stored"
    for name in ENCODER_NAMES:
        identity = report.manifest.captions.encoder(name)
        for field in report.rows[0].encoders[name].figures:
            found = [row.encoders[name].figures[field] for row in report.rows]
            errors = [figures.relative_error for figures in found]
            yield (
                f"{name:<9}{field:<10}{min(figures.cosine for figures in found):<15.6f}"
                f"{min(figures.whole_cosine for figures in found):<13.6f}"
                f"{max(errors):<23.2e}{statistics.median(errors):<9.2e}"
                f"{identity.compute_dtype}, {identity.storage_dtype}"
            )


def _row_table(report: Report, shown: int) -> Iterator[str]:
    yield "cosine    error     where                    row, caption (worst first)"
    for result in report.rows[:shown]:
        name, field, figures = _worst(result)
        token = f" token {figures.worst_token}" if field == "hidden" else ""
        caption = " ".join(result.row.caption.split())
        short = caption if len(caption) <= _CAPTION_CHARS else f"{caption[: _CAPTION_CHARS - 3]}..."
        where = f"{name} {field}{token}"
        yield f"{figures.cosine:<10.6f}{figures.relative_error:<10.2e}{where:<25}{result.row.name} {short!r}"
        for encoder, part in result.encoders.items():
            yield from (f"    {encoder} {line}" for line in _part_lines(part))
    if len(report.rows) > shown:
        yield f"... and {len(report.rows) - shown:,} more rows"


def _part_lines(part: EncoderResult) -> Iterator[str]:
    for diagnosis in part.diagnoses:
        what = " ".join(diagnosis.fields) or "num_tokens"
        fits = "" if diagnosis.cosine is None else f" (cosine {diagnosis.cosine:.6f})"
        yield f"{what}: {diagnosis.cause}: {diagnosis.text}{fits}"


def _verdict(report: Report) -> Iterator[str]:
    captions, num_rows, bad = report.manifest.captions, len(report.rows), report.num_unsound
    dtypes = ", ".join(dict.fromkeys(captions.encoder(name).compute_dtype for name in ENCODER_NAMES))
    if not bad:
        yield (
            f"All {num_rows:,} rows are what the manifest says, but for rounding ({dtypes}): "
            f"no cosine below {min(row.cosine for row in report.rows):.6f}"
        )
        return
    yield f"{bad:,} of {num_rows:,} rows are not within a cosine of {report.min_cosine} of their encoding in float32:"
    for (name, cause), rows in sorted(_causes(report).items(), key=lambda item: -len(item[1])):
        lowest = min(row.encoders[name].cosine for row in rows)
        yield f"  {name}: {cause} in {len(rows):,} rows, lowest cosine {lowest:.6f}"
    if {cause for _, cause in _causes(report)} - {_NOT_DIAGNOSED} == {"rounding"}:
        lowest = math.floor(min(row.cosine for row in report.rows) * 1000) / 1000
        yield f"Nothing but rounding of {dtypes} was found; --min-cosine {lowest} accepts these rows."


def _causes(report: Report) -> dict[tuple[str, str], list[RowResult]]:
    found: dict[tuple[str, str], list[RowResult]] = {}
    for row in report.rows:
        for name, part in row.encoders.items():
            for cause in dict.fromkeys(diagnosis.cause for diagnosis in part.diagnoses):
                found.setdefault((name, cause), []).append(row)
            if not part.is_sound and not part.diagnoses:
                found.setdefault((name, _NOT_DIAGNOSED), []).append(row)
    return found


def _worst(result: RowResult) -> tuple[str, str, Any]:
    every = [(name, field, f) for name, part in result.encoders.items() for field, f in part.figures.items()]
    return min(every, key=lambda item: (item[2].cosine, -item[2].relative_error))


def _row_json(result: RowResult) -> dict[str, Any]:
    row = result.row
    encoders = {
        name: {
            "ok": part.is_sound,
            "num_tokens": {"stored": part.stored_tokens[0], "expected": part.expected_tokens[0]},
            "truncated": {"stored": part.stored_tokens[1], "expected": part.expected_tokens[1]},
            **{
                field: {
                    "cosine": figures.cosine,
                    "worst_token": figures.worst_token,
                    "whole_cosine": figures.whole_cosine,
                    "relative_error": figures.relative_error if math.isfinite(figures.relative_error) else None,
                    "ok": field not in part.failed,
                }
                for field, figures in part.figures.items()
            },
            "diagnoses": [
                {"cause": found.cause, "text": found.text, "fields": list(found.fields), "cosine": found.cosine}
                for found in part.diagnoses
            ],
        }
        for name, part in result.encoders.items()
    }
    place = {"group": row.group, "shard": row.shard, "row": row.index, "key": row.key, "caption": row.caption}
    return {**place, "ok": result.is_sound, "cosine": result.cosine, "encoders": encoders}

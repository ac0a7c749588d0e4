"""Reports what `verify` found of latents, for people and for machines."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.verification.latent_check import LatentResult
from schemas.latent_manifest import LatentManifest


@dataclass(frozen=True)
class LatentReport:
    """What was found of the rows that were drawn.

    Attributes:
        manifest: The latents'.
        rows: Worst first.
        min_cosine: What their cosines were to reach.
        differences: Fields in which the autoencoder used differs from the manifest's.
    """

    manifest: LatentManifest
    rows: Sequence[LatentResult]
    min_cosine: float
    differences: Sequence[str]

    @property
    def num_unsound(self) -> int:
        """Rows that are not what the manifest says."""
        return sum(not row.is_sound for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """One JSON document; figures that there are none of, or that are infinite, are null."""
        return {
            "identity_sha256": self.manifest.identity_sha256,
            "min_cosine": self.min_cosine,
            "num_rows": len(self.rows),
            "num_below": self.num_unsound,
            "cosine": min((row.figures.cosine for row in self.rows if row.figures is not None), default=None),
            "differences": list(self.differences),
            "rows": [_row_json(row) for row in self.rows],
        }


def latent_report_lines(report: LatentReport, *, shown: int) -> Iterator[str]:
    """For people.

    Args:
        report: What was found.
        shown: Rows to print.
    """
    if report.differences:
        yield "! The autoencoder used here is not the manifest's (manifest -> here):"
        yield from (f"!   {line}" for line in report.differences)
        yield ""
    identity, figures = report.manifest.latents, [row.figures for row in report.rows if row.figures is not None]
    dtypes = f"{identity.compute_dtype}, {identity.storage_dtype}" if identity.kind != "pixels" else "pixels"
    if figures:
        errors = [found.relative_error for found in figures]
        yield "latents   worst cosine   relative error: most   median   computed, stored"
        yield (
            f"{identity.kind:<16}{min(found.cosine for found in figures):<9.6f}{max(errors):<23.2e}"
            f"{statistics.median(errors):<9.2e}{dtypes}"
        )
        yield ""
    yield "cosine    error     row (worst first)"
    for result in report.rows[:shown]:
        found = result.figures
        columns = f"{'-':<10}{'-':<10}" if found is None else f"{found.cosine:<10.6f}{found.relative_error:<10.2e}"
        yield f"{columns}{result.row.name}"
        if result.cause is not None:
            yield f"    {result.cause}: {result.text}"
    if len(report.rows) > shown:
        yield f"... and {len(report.rows) - shown:,} more rows"
    yield ""
    yield from _verdict(report, dtypes)


def _verdict(report: LatentReport, dtypes: str) -> Iterator[str]:
    num_rows, bad = len(report.rows), report.num_unsound
    if not bad:
        exactly = "exactly " if dtypes == "pixels" else f"but for rounding ({dtypes}) "
        yield f"All {num_rows:,} rows of latents are {exactly}what the manifest and their images say"
        return
    yield f"{bad:,} of {num_rows:,} rows of latents are not what the manifest and their images say:"
    causes = [row.cause for row in report.rows if row.cause is not None]
    for cause in dict.fromkeys(causes):
        yield f"  {cause} in {causes.count(cause):,} rows"
    if set(causes) == {"rounding"}:
        lowest = math.floor(min(row.cosine for row in report.rows) * 1000) / 1000
        yield f"Nothing but rounding of {dtypes} was found; --min-latent-cosine {lowest} accepts these rows."


def _row_json(result: LatentResult) -> dict[str, Any]:
    row, figures = result.row, result.figures
    finite = figures is not None and math.isfinite(figures.relative_error)
    return {
        "shard": row.shard,
        "row": row.index,
        "key": row.key,
        "size": list(row.size),
        "ok": result.is_sound,
        "cosine": None if figures is None else figures.cosine,
        "relative_error": figures.relative_error if figures is not None and finite else None,
        "cause": result.cause,
        "text": result.text,
    }

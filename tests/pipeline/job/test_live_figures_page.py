"""docs/live-figures.md names every metric there is."""

from __future__ import annotations

from pathlib import Path

from pipeline.job.ray_metrics import COUNTERS, QUEUE_WAITING


def test_the_page_names_every_metric(repository: Path) -> None:
    text = (repository / "docs/live-figures.md").read_text()
    for name in (*(name for name, _ in COUNTERS.values()), QUEUE_WAITING):
        assert f"`{name}" in text, name

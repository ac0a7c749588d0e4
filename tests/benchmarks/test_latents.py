"""The latents' benchmark runs whole, at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.latents import Config, main


def test_every_variant_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "latents.json"
    main(Config(side=32, batch=2, windows=2, repetitions=1, width=32, device="cpu", output=path))
    found = json.loads(path.read_text())
    errors = {row["name"]: row["relative_error"] for row in found["variants"]}
    assert errors.pop("float32") < 1e-4
    assert len(errors) == 2
    assert all(0.001 < error < 0.2 for error in errors.values())
    assert all(row["images_per_second"] > 0 for row in found["variants"])
    assert found["engine_share"] > 0

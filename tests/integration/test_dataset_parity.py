"""What the trainer will read equals what diffusers computes: `encode sd3` on a Stable Diffusion 3 folder, by Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

import schemas
from tests.checkpoints import AWKWARD_CAPTIONS, small_clip, small_t5, write_sd3
from tests.integration.commands import run
from tests.pipeline.encoders.test_sd3_parity import T5_WIDTH, reference
from tests.pipeline.encoding import write_tar
from trainer.conditioning import assemble

# What a tar can hold as text is what a user wrote, but for a byte order mark.
CAPTIONS = list(AWKWARD_CAPTIONS)


@pytest.mark.processor
@pytest.mark.timeout(1800)
def test_a_dataset_equals_encode_prompt(tmp_path: Path) -> None:
    sd3, dataset = tmp_path / "sd3", tmp_path / "dataset"
    clip_l, clip_g = small_clip(1, width=64), small_clip(2, width=96, projection=80, layers=4, activation="gelu")
    write_sd3(sd3, clip_l, clip_g, small_t5(3, width=T5_WIDTH))
    write_tar(tmp_path / "tars/s.tar", [(f"{i:03d}.txt", caption.encode()) for i, caption in enumerate(CAPTIONS)])
    sources = [word for name in ("clip-l", "clip-g", "t5") for word in (f"--{name}.source", str(sd3))]
    where = ["--input", str(tmp_path / "tars"), "--output", str(dataset), "--num-workers", "1"]
    dtypes = ["--compute-dtype", "float32", "--storage-dtype", "float32"]
    run("encode", "sd3", *where, *sources, *dtypes, "--t5.max-tokens", "256", "--clip-g.exclamation-as-pad")

    rows = list(schemas.open_dataset(str(dataset)).rows("txt"))
    assert [row.caption for row in rows] == CAPTIONS
    found = assemble(rows, schemas.open_dataset(str(dataset)).manifest.captions)

    expected_embeds, expected_pooled = reference(sd3, max_tokens=256)
    assert found.prompt_embeds.shape == expected_embeds.shape
    assert (found.prompt_embeds - expected_embeds).abs().max() <= 1e-4
    assert (found.pooled_prompt_embeds - expected_pooled).abs().max() <= 1e-4

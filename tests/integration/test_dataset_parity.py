"""What the trainer will read equals what diffusers computes: `encode sd3` on a Stable Diffusion 3 folder, by Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import schemas
from schemas.identity import ENCODER_NAMES
from tests.checkpoints import AWKWARD_CAPTIONS, small_clip, small_t5, write_sd3
from tests.integration.commands import run
from tests.pipeline.encoders.test_sd3_parity import T5_WIDTH, reference
from tests.pipeline.encoding import write_tar

# What a tar can hold as text is what a user wrote, but for a byte order mark.
CAPTIONS = list(AWKWARD_CAPTIONS)


@pytest.mark.timeout(400)
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
    hidden = {name: torch.from_numpy(np.stack([row[name].hidden for row in rows])) for name in ENCODER_NAMES}
    clip = torch.cat([hidden["clip_l"], hidden["clip_g"]], dim=-1)
    embeds = torch.cat([torch.nn.functional.pad(clip, (0, T5_WIDTH - clip.shape[-1])), hidden["t5"]], dim=1)
    pooled = torch.from_numpy(np.stack([np.concatenate([row["clip_l"].pooled, row["clip_g"].pooled]) for row in rows]))

    expected_embeds, expected_pooled = reference(sd3, max_tokens=256)
    assert embeds.shape == expected_embeds.shape
    assert (embeds - expected_embeds).abs().max() <= 1e-4
    assert (pooled - expected_pooled).abs().max() <= 1e-4

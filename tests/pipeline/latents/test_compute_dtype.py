"""The autoencoder's compute dtype where the user leaves it open: the dataset's, or what text encoders would have."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from pipeline.compute_dtype import resolve_compute_dtype, resolve_latent_compute_dtype
from schemas.latent_manifest import create_latents_or_require_same
from schemas.storage import Store
from tests.latent_datasets import make_latent_manifest


def test_what_the_user_says_counts_and_then_the_dataset(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    create_latents_or_require_same(store, make_latent_manifest())
    assert make_latent_manifest().latents.compute_dtype == "float32"
    assert resolve_latent_compute_dtype("auto", store, device="cuda", has_cluster=True) == "float32"
    assert resolve_latent_compute_dtype("bfloat16", store, device="cuda", has_cluster=True) == "bfloat16"


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
@pytest.mark.parametrize("has_bfloat16", [True, False])
@pytest.mark.parametrize(("has_cluster", "has_gpu"), [(False, False), (False, True), (True, False)])
def test_a_new_dataset_gets_what_text_encoders_get(
    device: Literal["auto", "cpu", "cuda"],
    has_bfloat16: bool,
    has_cluster: bool,
    has_gpu: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr("pipeline.compute_dtype.has_bfloat16_instructions", lambda: has_bfloat16)
    store = Store(str(tmp_path))
    found = resolve_latent_compute_dtype("auto", store, device=device, has_cluster=has_cluster)
    if device == "cuda" or (device == "auto" and (has_cluster or has_gpu)):
        assert found == "bfloat16"
    elif not has_bfloat16:
        assert found == "float32"
    else:
        assert found == "bfloat16"
    assert found == resolve_compute_dtype("auto", store, device=device, has_cluster=has_cluster).dtype

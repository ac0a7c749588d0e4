"""The compute dtype that is left open: the dataset's, or what this machine is best at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline import compute_dtype
from pipeline.compute_dtype import compute_dtype_of, fastest_on_processor, resolve_compute_dtype
from schemas.manifest import create_or_require_same
from schemas.storage import Store
from tests.pipeline.encoding import make_manifest, small_encoders


def test_what_the_user_says_counts(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert resolve_compute_dtype("float8", store, device="cpu", has_cluster=False) == "float8"


def test_a_dataset_decides(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    create_or_require_same(store, make_manifest(small_encoders("none", "float32")))
    assert resolve_compute_dtype("auto", store, device="cuda", has_cluster=True) == "float32"


@pytest.mark.parametrize(
    ("device", "has_cluster", "has_gpu", "measured"),
    [
        ("cpu", True, True, True),
        ("cuda", False, False, False),
        ("auto", False, False, True),
        ("auto", False, True, False),
        ("auto", True, False, False),
    ],
)
def test_only_for_this_processor_is_it_measured(
    device: str, has_cluster: bool, has_gpu: bool, measured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(compute_dtype, "fastest_on_processor", lambda: "float32")
    found = resolve_compute_dtype("auto", Store(str(tmp_path)), device=device, has_cluster=has_cluster)
    assert found == ("float32" if measured else "bfloat16")


@pytest.mark.parametrize("fast", ["float32", "bfloat16"])
def test_the_faster_one_wins(fast: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(compute_dtype, "_seconds", lambda dtype: 1.0 if str(dtype) == f"torch.{fast}" else 2.0)
    assert fastest_on_processor() == fast
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert fastest_on_processor() == "float32"


def test_float8_is_t5s_alone() -> None:
    assert [compute_dtype_of(name, "float8") for name in ("clip_l", "clip_g", "t5")] == [
        "bfloat16",
        "bfloat16",
        "float8",
    ]
    assert compute_dtype_of("clip_l", "float32") == "float32"

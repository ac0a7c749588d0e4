"""The compute dtype that "auto" stands for: the dataset's, or what the device has instructions for."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline import compute_dtype
from pipeline.compute_dtype import (
    compute_dtype_of,
    has_bfloat16_instructions,
    resolve_compute_dtype,
    slow_compute_warning,
)
from schemas.manifest import create_or_require_same
from schemas.storage import Store
from tests.pipeline.encoding import make_manifest, small_encoders

pytestmark = pytest.mark.processor


def test_what_the_user_says_counts(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert resolve_compute_dtype("float8", store, device="cpu", has_cluster=False).dtype == "float8"


def test_a_dataset_decides(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    create_or_require_same(store, make_manifest(small_encoders("none", "float32")))
    found = resolve_compute_dtype("auto", store, device="cuda", has_cluster=True)
    assert (found.dtype, found.reason) == ("float32", "as in the dataset's manifest")


@pytest.mark.parametrize("has_instructions", [True, False])
@pytest.mark.parametrize(
    ("device", "has_cluster", "has_gpu", "processor_decides", "reason"),
    [
        ("cpu", True, True, True, "this processor"),
        ("cuda", False, False, False, "on a GPU"),
        ("auto", False, False, True, "this processor"),
        ("auto", False, True, False, "on a GPU"),
        ("auto", True, False, False, "may have GPUs"),
    ],
)
def test_a_new_dataset_gets_what_the_device_has(
    device: str,
    has_cluster: bool,
    has_gpu: bool,
    processor_decides: bool,
    reason: str,
    has_instructions: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(compute_dtype, "has_bfloat16_instructions", lambda: has_instructions)
    found = resolve_compute_dtype("auto", Store(str(tmp_path)), device=device, has_cluster=has_cluster)
    assert found.dtype == ("float32" if processor_decides and not has_instructions else "bfloat16")
    assert reason in found.reason


@pytest.mark.parametrize(
    ("machine", "onednn", "avx512_bf16", "capability", "limit", "expected"),
    [
        ("x86_64", True, True, "AVX512", "", True),
        ("x86_64", True, True, "AVX512", "AVX512_CORE_AMX", True),
        ("x86_64", True, False, "AVX512", "", False),  # oneDNN converts to float32
        ("x86_64", True, True, "AVX512", "avx512_core_vnni", False),  # as well
        ("x86_64", True, True, "AVX2", "", False),
        ("x86_64", True, False, "AVX2", "", False),  # AVX-NE-CONVERT: conversions alone
        ("x86_64", False, True, "AVX512", "AVX2", False),
        ("aarch64", True, False, "DEFAULT", "", True),
        ("aarch64", False, False, "DEFAULT", "", False),
    ],
)
def test_only_products_in_bfloat16_itself_count(
    machine: str,
    onednn: bool,
    avx512_bf16: bool,
    capability: str,
    limit: str,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert has_bfloat16_instructions() is expected


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the limits are those of x86 processors")
@pytest.mark.parametrize(
    "limits",
    [
        {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
        {"DNNL_MAX_CPU_ISA": "AVX512_CORE"},
        {"ATEN_CPU_CAPABILITY": "avx2"},
    ],
    ids=str,
)
def test_a_limited_process_is_a_lesser_processor(limits: dict[str, str]) -> None:
    code = "from pipeline.compute_dtype import has_bfloat16_instructions; print(has_bfloat16_instructions())"
    variables = {name: value for name, value in os.environ.items() if "CPU_ISA" not in name} | limits
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_machine_that_computes_slowly_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute_dtype, "has_bfloat16_instructions", lambda: False)
    assert "several times slower" in (slow_compute_warning({"float32", "bfloat16"}, "cpu") or "")
    assert slow_compute_warning({"float8"}, "cpu") is not None
    assert slow_compute_warning({"float32"}, "cpu") is None
    assert slow_compute_warning({"bfloat16"}, "cuda") is None
    monkeypatch.setattr(compute_dtype, "has_bfloat16_instructions", lambda: True)
    assert slow_compute_warning({"bfloat16"}, "cpu") is None


def test_float8_is_t5s_alone() -> None:
    assert [compute_dtype_of(name, "float8") for name in ("clip_l", "clip_g", "t5")] == [
        "bfloat16",
        "bfloat16",
        "float8",
    ]
    assert compute_dtype_of("clip_l", "float32") == "float32"

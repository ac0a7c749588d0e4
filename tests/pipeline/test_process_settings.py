"""What a process that encodes keeps in memory, whatever it has computed before."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from pipeline.process_settings import require_exact_float32

_MANY_SIZES = """
from pathlib import Path
import torch
from pipeline.process_settings import apply_process_settings

def resident_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1e3

apply_process_settings(1)
weight = torch.ones(640, 160, dtype=torch.bfloat16)
with torch.inference_mode():
    torch.nn.functional.linear(torch.ones(2000, 160, dtype=torch.bfloat16), weight)
    before = resident_mb()
    for size in range(1, 1000):
        torch.nn.functional.linear(torch.ones(size, 160, dtype=torch.bfloat16), weight)
print(resident_mb() - before)
"""


def test_products_of_many_sizes_leave_little_behind() -> None:
    """By default torch keeps what it compiled for 1,024 of them, 700 MB here; on a processor without bfloat16 none."""
    done = subprocess.run([sys.executable, "-c", _MANY_SIZES], stdout=subprocess.PIPE, text=True, check=True)
    assert float(done.stdout) < 200


_CUDNN = """
import torch
from pipeline.process_settings import apply_process_settings

assert torch.backends.cuda.cudnn_sdp_enabled()
apply_process_settings(1)
assert not torch.backends.cuda.cudnn_sdp_enabled()
"""


def test_attention_of_cudnn_is_off() -> None:
    """It builds a plan for every shape and thread."""
    subprocess.run([sys.executable, "-c", _CUDNN], check=True)


def test_float32_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU cuDNN's convolutions would round it to TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        require_exact_float32()
        assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(precision)

"""Encoders give the values that SPEC 6.3 promises when the number of threads differs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from schemas.identity import ENCODER_NAMES, ComputeDtype
from tests.chaos.equality import difference

pytestmark = pytest.mark.processor

# In a process of its own: MKL reads its settings at the first product.
_ENCODE = """
import sys
import numpy as np
import torch
from tests.pipeline.encoders.encoding import encode
from tests.pipeline.encoding import small_encoders

folder, compute_dtype = sys.argv[1:]
captions = [f"a {'very ' * (number % 9)}small picture of {number} things" for number in range(96)]
for num_threads in (1, 2):
    torch.set_num_threads(num_threads)
    for name, encoder in small_encoders("none", compute_dtype).items():
        found = encode(encoder, captions)
        for field in ("hidden", "pooled", "eos"):
            if (values := getattr(found, field)) is not None:
                np.save(f"{folder}/{name}-{field}-{num_threads}.npy", values.float().flatten(0, -2).numpy())
"""

# Shapes of the small encoders and of larger ones: rows, terms of each sum, columns.
_MULTIPLY = """
import json
import pipeline
import torch

random = torch.Generator().manual_seed(1)
differ = []
for num_terms in (64, 160, 384, 512, 1024):
    for num_columns in (96, 160, 512):
        weight = torch.randn(num_columns, num_terms, generator=random)
        for num_rows in (1, 8, 64, 128, 512):
            inputs, found = torch.randn(num_rows, num_terms, generator=random), []
            for num_threads in (1, 2):
                torch.set_num_threads(num_threads)
                found.append(torch.nn.functional.linear(inputs, weight))
            if not torch.equal(*found):
                differ.append([num_rows, num_terms, num_columns])
print(json.dumps(differ))
"""


def run(repository: Path, code: str, *arguments: str) -> str:
    variables = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_intel() -> bool:
    """Whether MKL is known to honour its setting: on other makers' processors it does as it likes."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "GenuineIntel" in cpuinfo.read_text()


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_another_number_of_threads_changes_no_more_than_is_promised(
    compute_dtype: ComputeDtype, repository: Path, tmp_path: Path
) -> None:
    run(repository, _ENCODE, str(tmp_path), compute_dtype)
    names = sorted({path.name.rpartition("-")[0] for path in tmp_path.iterdir()})
    assert len(names) == 3 * len(ENCODER_NAMES) - 2, names
    for name in names:
        one, other = (np.load(tmp_path / f"{name}-{num_threads}.npy") for num_threads in (1, 2))
        assert difference(one, other, compute_dtype, same_threads=False) is None, name
        if compute_dtype == "float32" and is_intel():
            assert np.array_equal(one, other), name


def test_float32_products_do_not_depend_on_the_number_of_threads(repository: Path) -> None:
    """Without the setting in `pipeline/__init__.py` many do."""
    differ = json.loads(run(repository, _MULTIPLY))
    assert differ == [] or not is_intel()

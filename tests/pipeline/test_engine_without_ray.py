"""The engine runs where there is no ray: in a benchmark, in a notebook, on a machine that was lent."""

from __future__ import annotations

import subprocess
import sys


def test_everything_up_to_the_commit_imports_no_ray() -> None:
    code = """
import sys
sys.modules["ray"] = None  # Importing it now is an ImportError.
import pipeline.shard_encoder, pipeline.prepare_weights, pipeline.demo_data, pipeline.process_settings
assert not [name for name in sys.modules if name.startswith("pipeline.job")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

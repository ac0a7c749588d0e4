"""Installing `encode-once[trainer]` brings no text encoder library and no ray, and the package does without them."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FORBIDDEN = {"transformers", "open-clip-torch", "ray"}

# Makes each forbidden library look absent, as on a trainer's machine, then imports every module of the package.
IMPORT_ALL = """
import importlib, pkgutil, sys
for name in ("transformers", "open_clip", "ray"):
    sys.modules[name] = None
package = importlib.import_module("trainer")
for module in pkgutil.walk_packages(package.__path__, "trainer."):
    importlib.import_module(module.name)
"""


def required_distributions(name: str, extra: str) -> set[str]:
    """The canonical names of all that installing `name[extra]` brings here, itself included."""
    found: set[str] = set()
    pending = [(name, frozenset({extra}))]
    seen = set(pending)
    while pending:
        distribution, extras = pending.pop()
        found.add(canonicalize_name(distribution))
        for text in metadata.requires(distribution) or []:
            requirement = Requirement(text)
            if requirement.marker and not any(requirement.marker.evaluate({"extra": one}) for one in extras | {""}):
                continue
            item = (str(canonicalize_name(requirement.name)), frozenset(requirement.extras))
            if item not in seen:
                seen.add(item)
                pending.append(item)
    return found


def import_trainer(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-B", "-c", IMPORT_ALL]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_trainer_extra_brings_no_text_encoder_and_no_ray() -> None:
    brought = required_distributions("encode-once", "trainer")
    assert {"torch", "diffusers", "pyarrow", "obstore", "huggingface-hub"} <= brought
    assert brought & FORBIDDEN == set()


def test_pipeline_extra_brings_them() -> None:
    """The same walk finds what is there to be found."""
    assert required_distributions("encode-once", "pipeline") >= FORBIDDEN


def test_trainer_imports_where_they_are_not_installed(repository: Path) -> None:
    result = import_trainer(repository)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("library", ["transformers", "open_clip", "ray"])
def test_import_of_a_library_that_is_not_installed_fails(tmp_path: Path, library: str) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "__init__.py").touch()
    (tmp_path / "trainer" / "intruder.py").write_text(f"import {library}\n")
    result = import_trainer(tmp_path)
    assert result.returncode != 0
    assert f"import of {library} halted" in result.stderr

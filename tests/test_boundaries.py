"""The package boundaries hold, and the contracts that guard them would notice if they did not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

PACKAGES = ("schemas", "pipeline", "trainer")

SCHEMAS_ALONE = "schemas stands alone: no other package of ours, no model library, no ray"
SIDES_APART = "pipeline and trainer never import each other"
TRAINER_LIGHT = "trainer has no text encoder and no ray"

# Imports every module of the package named first, then prints which of the others were loaded on the way.
LOAD_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
print(*[name for name in sys.argv[2:] if name in sys.modules])
"""


def copy_sources(repository: Path, folder: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(repository / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repository / "pyproject.toml", folder)
    return folder


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return run([str(Path(sys.executable).with_name("lint-imports")), "--no-cache"], folder)


def load_all(package: str, forbidden: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-c", LOAD_ALL, package, *forbidden], folder)


def run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_contracts_hold(repository: Path, tmp_path: Path) -> None:
    result = lint_imports(copy_sources(repository, tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    for contract in (SCHEMAS_ALONE, SIDES_APART, TRAINER_LIGHT):
        assert f"{contract} KEPT" in result.stdout


@pytest.mark.parametrize(
    ("package", "imported", "contract"),
    [
        *[
            ("schemas", name, SCHEMAS_ALONE)
            for name in ("pipeline", "trainer", "torch", "ray", "transformers", "open_clip", "diffusers")
        ],
        ("pipeline", "trainer", SIDES_APART),
        ("trainer", "pipeline", SIDES_APART),
        *[("trainer", name, TRAINER_LIGHT) for name in ("transformers", "open_clip", "ray")],
    ],
)
def test_forbidden_import_is_reported(
    repository: Path, tmp_path: Path, package: str, imported: str, contract: str
) -> None:
    folder = copy_sources(repository, tmp_path)
    # Inside a function, where importing the package would not show it.
    (folder / package / "intruder.py").write_text(f"def load():\n    import {imported}\n    return {imported}\n")
    result = lint_imports(folder)
    assert result.returncode != 0
    assert f"{contract} BROKEN" in result.stdout
    assert f"{package}.intruder -> {imported}" in result.stdout


FORBIDDEN_TO_SCHEMAS = ("pipeline", "trainer", "torch", "ray", "transformers", "open_clip", "diffusers")


def test_schemas_loads_no_model_library(repository: Path) -> None:
    """Neither by itself nor through a library it uses."""
    result = load_all("schemas", FORBIDDEN_TO_SCHEMAS, repository)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def test_a_loaded_model_library_is_noticed(tmp_path: Path) -> None:
    package = tmp_path / "intruded"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "late.py").write_text("import importlib\nimportlib.import_module('ray')\n")
    result = load_all("intruded", FORBIDDEN_TO_SCHEMAS, tmp_path)
    assert result.stdout.split() == ["ray"], result.stderr

"""The environment of the loaders that ours is compared with: made once, from the configured package index."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_REQUIREMENTS = Path(__file__).parent / "peers" / "requirements.txt"
_PACKAGES = ("datasets", "litdata", "mosaicml-streaming", "numpy", "torch", "webdataset")


def peers_python(folder: Path) -> Path:
    """The interpreter of the environment, which is made if it is not there.

    Args:
        folder: Where it is, or is to be.
    """
    python, made = folder / "bin" / "python", folder / "installed.txt"
    wanted = _REQUIREMENTS.read_text()
    if not made.exists() or made.read_text() != wanted:
        print(f"making the environment of the other loaders in {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", str(_REQUIREMENTS)], check=True)
        made.write_text(wanted)
    return python


def peers_versions(python: Path) -> dict[str, str]:
    """Versions of what is compared."""
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    done = subprocess.run([str(python), "-c", code, *_PACKAGES], check=True, stdout=subprocess.PIPE, text=True)
    return dict(zip(_PACKAGES, done.stdout.split(), strict=True))

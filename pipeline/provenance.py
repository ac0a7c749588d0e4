"""What is recorded about who wrote something, and never compared."""

from __future__ import annotations

import platform
import socket
import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from schemas.documents import seal
from schemas.storage import Store

_PACKAGES = (
    "encode-once",
    "torch",
    "diffusers",
    "pillow",
    "transformers",
    "open_clip_torch",
    "tokenizers",
    "sentencepiece",
    "ftfy",
    "pyarrow",
    "numpy",
    "obstore",
    "ray",
)


def library_versions() -> dict[str, str]:
    """Versions of everything that could matter when two encodings are compared; absent packages are left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def host_name() -> str:
    """This machine's name."""
    return socket.gethostname()


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_run_id() -> str:
    """A name for a run that sorts by time and is like no other."""
    return f"{now().replace(':', '').replace('+0000', 'Z')}-{uuid.uuid4().hex[:8]}"


def save_config(config: Any, dataset: Store, run_id: str) -> None:
    """Stores a run's resolved configuration, a dataclass, beside what the run makes."""
    body = {"run_id": run_id, "started": now(), "host": host_name(), "versions": library_versions()}
    fields = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    dataset.create(f"runs/{run_id}.json", seal({**body, "config": fields}, for_people=True))

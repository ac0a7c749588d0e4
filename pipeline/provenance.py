"""What is recorded about who wrote something, and never compared."""

from __future__ import annotations

import platform
import socket
import uuid
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

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

"""Which URLs a dataset or an input may have."""

from __future__ import annotations

import os
import re
from pathlib import Path

from schemas.errors import ConfigError

# obstore would open http:// too. A ledger record names the tar it was made from, which the validator looks up: whoever
# wrote the record must not be able to have servers asked that only the validator's machine can reach.
_SCHEMES = frozenset(("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss"))
_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*)://")
_DIRECTORY_BUCKET = re.compile(r"^s3a?://[^/]+--x-s3(/|$)")
"""How the names of S3's directory buckets end, by Amazon's rules for them."""
# Options given to obstore replace the ones it would read from the environment, so this one is read here.
_ALLOW_HTTP = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")


def local_root(url: str) -> Path | None:
    """The folder that a URL or path means; None for a bucket.

    Raises:
        ValueError: It is neither.
    """
    if url.startswith("file://"):
        return Path(url.removeprefix("file://")).absolute()
    scheme = _SCHEME.match(url)
    if scheme is None:
        return Path(url).expanduser().absolute()
    if scheme[1] not in _SCHEMES:
        raise ValueError(f"the scheme {scheme[1]!r}")
    return None


def require_ordered(url: str) -> None:
    """Refuses stores that are known to list objects in another order than that of their names.

    Raises:
        ConfigError: It is one.
    """
    if _DIRECTORY_BUCKET.match(url):
        raise ConfigError(
            "bucket-kind",
            where=url,
            expected="a store that lists objects in the order of their names, so that a listing can be taken up again",
            actual="a directory bucket of S3 (Express One Zone), which lists in no order",
            remedy="use a general purpose bucket",
        )


def allow_http() -> bool:
    """Whether the environment lets stores be reached without TLS."""
    return any(os.environ.get(name, "").lower() in ("1", "true") for name in _ALLOW_HTTP)

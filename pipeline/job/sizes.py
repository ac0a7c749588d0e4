"""Byte counts for people."""

from __future__ import annotations


def readable_bytes(count: float) -> str:
    """`1234567` as `1.2 MB`; powers of 1000, as stores and disks bill them."""
    if count < 1000:
        return f"{count:,.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:,.1f} {unit}"
    return f"{count / 1000:,.1f} TB"

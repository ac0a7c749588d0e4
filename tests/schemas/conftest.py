"""Fixtures of these tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads that Arrow, and the encoding of chunks, may use; reset afterwards."""
    before = pa.cpu_count()
    yield pa.set_cpu_count
    pa.set_cpu_count(before)

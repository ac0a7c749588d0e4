"""Decoded chunks: what they hold in memory."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from schemas.arrow_messages import record_batch_message
from trainer.stream.decode import held_bytes


def decoded(planes: list[bytes]) -> tuple[pa.RecordBatch, pa.Buffer]:
    batch = pa.RecordBatch.from_pydict({str(n): pa.array([plane], pa.large_binary()) for n, plane in enumerate(planes)})
    data = pa.py_buffer(b"".join(record_batch_message(batch).pieces))
    return ipc.read_record_batch(ipc.read_message(data), batch.schema), data


def test_a_batch_that_was_all_compressed_keeps_its_own_bytes() -> None:
    batch = pa.RecordBatch.from_pydict({"p0": pa.array([b"\1" * 100_000] * 9, pa.large_binary())})
    data = pa.py_buffer(b"".join(record_batch_message(batch).pieces))
    found = ipc.read_record_batch(ipc.read_message(data), batch.schema)
    assert found.nbytes <= held_bytes(found, data) < found.nbytes + 64
    assert data.size < 5_000


def test_planes_that_were_stored_as_they_are_keep_the_whole_chunk() -> None:
    noise = np.random.default_rng(0).bytes(100_000)
    found, data = decoded([b"\1" * 300_000, noise])
    allocated = found.column(0).buffers()[2].size
    assert held_bytes(found, data) == allocated + data.size
    assert data.size > len(noise)

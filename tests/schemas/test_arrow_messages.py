"""Messages and files with buffers compressed by us: Arrow reads what it would have read from its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from pyarrow import ipc

from schemas.arrow_messages import END_OF_STREAM, FILE_HEAD, Block, _Sink, file_end, record_batch_message
from schemas.record_batch_sizes import declared

_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("tensor", pa.struct([pa.field("p0", pa.large_binary()), pa.field("p1", pa.large_binary())])),
        pa.field("number", pa.int32()),
        pa.field("flag", pa.bool_()),
    ],
    metadata={b"made": b"here"},
)

_rows = st.lists(
    st.fixed_dictionaries(
        {
            "key": st.none() | st.text(max_size=20),
            "tensor": st.none() | st.fixed_dictionaries({name: st.binary(max_size=300) for name in ("p0", "p1")}),
            "number": st.none() | st.integers(-(2**31), 2**31 - 1),
            "flag": st.none() | st.booleans(),
        }
    ),
    max_size=12,
)


def read(message: bytes) -> pa.RecordBatch:
    batch = ipc.read_record_batch(ipc.read_message(message), _SCHEMA)
    batch.validate(full=True)
    return batch


@given(_rows, st.integers(0, 5), st.integers(0, 12))
def test_a_batch_or_any_slice_of_it_comes_back(rows: list[dict[str, object]], start: int, length: int) -> None:
    batch = pa.RecordBatch.from_pylist(rows, _SCHEMA).slice(min(start, len(rows)), length)
    assert read(b"".join(record_batch_message(batch).pieces)).equals(batch)


@given(st.lists(_rows, max_size=3))
def test_a_file_of_messages_is_an_arrow_file(rows: list[list[dict[str, object]]]) -> None:
    batches = [pa.RecordBatch.from_pylist(found, _SCHEMA) for found in rows]
    data, blocks = FILE_HEAD + _SCHEMA.serialize().to_pybytes(), []
    for batch in batches:
        message = record_batch_message(batch)
        blocks.append(Block(len(data), message.metadata_bytes, message.num_bytes - message.metadata_bytes))
        data += b"".join(message.pieces)
    data += file_end(_SCHEMA, blocks)
    with ipc.open_file(pa.py_buffer(data)) as reader:
        assert reader.schema.equals(_SCHEMA, check_metadata=True)
        assert [reader.get_batch(index) for index in range(reader.num_record_batches)] == batches
    # And, without its head, a stream.
    with ipc.open_stream(pa.py_buffer(data[len(FILE_HEAD) :])) as stream:
        assert list(stream) == batches


def test_a_stream_of_a_message_is_an_arrow_stream() -> None:
    batch = pa.RecordBatch.from_pylist([{"key": "a", "tensor": None, "number": 1, "flag": None}], _SCHEMA)
    data = _SCHEMA.serialize().to_pybytes() + b"".join(record_batch_message(batch).pieces) + END_OF_STREAM
    with ipc.open_stream(pa.py_buffer(data)) as stream:
        assert list(stream) == [batch]


def test_it_does_not_matter_in_which_pieces_arrow_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"key": "a" * n, "tensor": {"p0": bytes(range(n)), "p1": b"\1" * n}, "number": n} for n in range(200)]
    batch = pa.RecordBatch.from_pylist(rows, _SCHEMA)
    expected = b"".join(record_batch_message(batch).pieces)
    write = _Sink.write

    def in_pieces(sink: _Sink, data: bytes | pa.Buffer) -> int:
        whole = memoryview(data).cast("B")
        return sum(write(sink, whole[start : start + 100]) for start in range(0, len(whole), 100))

    monkeypatch.setattr(_Sink, "write", in_pieces)
    assert b"".join(record_batch_message(batch).pieces) == expected


def test_what_does_not_compress_is_stored_as_it_is_and_read_without_a_copy() -> None:
    random = np.random.default_rng(0)
    noise, few = random.bytes(200_000), (random.binomial(16, 0.5, 200_000).astype(np.uint8)).tobytes()
    rows = [{"key": "a", "tensor": {"p0": few, "p1": noise}, "number": 1, "flag": True}]
    message = pa.py_buffer(b"".join(record_batch_message(pa.RecordBatch.from_pylist(rows, _SCHEMA)).pieces))
    assert message.to_pybytes().count(noise) == 1
    assert message.size < len(noise) + 0.5 * len(few)
    tensor = ipc.read_record_batch(ipc.read_message(message), _SCHEMA).column("tensor")
    stored = tensor.field("p1").buffers()[2]
    assert message.address <= stored.address < message.address + message.size
    assert tensor.to_pylist() == [rows[0]["tensor"]]


def test_the_metadata_declare_what_arrow_would_declare() -> None:
    rows = [{"key": "a", "tensor": {"p0": b"1" * 500, "p1": b""}, "number": None, "flag": True}] * 3
    batch = pa.RecordBatch.from_pylist(rows, _SCHEMA)
    ours, theirs = (
        declared(memoryview(ipc.read_message(data).metadata))
        for data in (b"".join(record_batch_message(batch).pieces), batch.serialize())
    )
    assert ours.num_rows == theirs.num_rows == 3
    np.testing.assert_array_equal(ours.nodes, theirs.nodes)
    assert len(ours.buffers) == len(theirs.buffers)
    assert ours.compressed
    assert not theirs.compressed
    assert (ours.buffers[:, 0] % 8 == 0).all()


@pytest.mark.parametrize("num_threads", [1, 2, 8])
def test_the_bytes_do_not_depend_on_the_number_of_threads(threads: Callable[[int], None], num_threads: int) -> None:
    random = np.random.default_rng(1)
    planes = [(random.normal(size=400_000) * 8).astype(np.int8).tobytes() for _ in range(16)]
    rows = [{"key": str(n), "tensor": {"p0": plane, "p1": plane[::-1]}} for n, plane in enumerate(planes)]
    batch = pa.RecordBatch.from_pylist(rows, _SCHEMA)
    expected = b"".join(record_batch_message(batch).pieces)
    threads(num_threads)
    with ThreadPoolExecutor(num_threads) as pool:
        # In a thread of the pool, as chunks are encoded: the only one there may be.
        message = pool.submit(record_batch_message, batch, pool).result(60)
    assert b"".join(message.pieces) == expected
    assert message.num_bytes == len(expected)


def test_small_buffers_come_together_and_large_ones_uncopied() -> None:
    large = np.random.default_rng(0).bytes(200_000)
    rows = [{"key": "a", "tensor": {"p0": b"x", "p1": large}, "number": 1, "flag": True}]
    message = record_batch_message(pa.RecordBatch.from_pylist(rows, _SCHEMA))
    assert [len(piece) == len(large) for piece in message.pieces] == [False, True, False]
    assert isinstance(message.pieces[1], memoryview)

"""Our dataset and loader, and two measurements of parts of it. Runs in the project's environment."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import ipc

from benchmarks.loader import values
from benchmarks.loader.meter import Batch, Batches
from pipeline.windows import default_chunk_rows
from schemas.arrow_schema import EncoderRows, caption_batch, caption_schema
from schemas.commit import commit, prepare_rejects, store_parts
from schemas.dataset import Dataset
from schemas.identity import ENCODER_NAMES, CaptionIdentity, EncoderIdentity
from schemas.index import write_index
from schemas.ledger import EncoderStats, LedgerRecord, Source, Writer, keys_sha256, part_path
from schemas.manifest import FORMAT_VERSION, Layout, Manifest, Provenance, create_or_require_same
from schemas.storage import Store
from trainer.conditioning import ConditioningConfig
from trainer.stream.config import StreamConfig
from trainer.stream.loader import StreamLoader
from trainer.stream.staged import StagedBatch

_SHARD_ROWS = 512
_GROUP = "txt"


def write(folder: Path, samples: values.Bits) -> None:
    """Writes the dataset with the pipeline's own writer and commit; only the encoders are left out."""
    identity = _identity()
    layout = Layout(container="arrow", chunk_rows=default_chunk_rows(identity), part_bytes=256 * 1024**2)
    created = Provenance(run_id="benchmark", time="2026-01-01T00:00:00+00:00", versions={})
    manifest = Manifest(layout=layout, captions=identity, created=created)
    store = Store(str(folder))
    create_or_require_same(store, manifest)
    for start in range(0, len(samples), _SHARD_ROWS):
        _write_shard(store, manifest, f"{start // _SHARD_ROWS:05d}", start, samples[start : start + _SHARD_ROWS])
    write_index(store, manifest.identity_sha256)


def batches(folder: Path, batch_size: int, *, once: bool) -> Batches:
    """The loader as a training run on the CPU uses it: planes merged on the host."""
    with _loader(folder, batch_size, once=once, merge="host") as loader:
        for batch in loader:
            keys = [key for key in batch.keys if key is not None]
            yield Batch(keys, batch.prompt_embeds, batch.pooled_prompt_embeds, len(keys))


def staged_batches(folder: Path, batch_size: int, *, once: bool) -> Batches:
    """The loader as a training run on a GPU uses it, up to the upload: planes gathered, to be merged by the GPU.

    With `once`, for the comparison of values, they are merged here.
    """
    with _loader(folder, batch_size, once=once, merge="device") as loader:
        if once:
            for batch in loader:
                keys = [key for key in batch.keys if key is not None]
                yield Batch(keys, batch.prompt_embeds, batch.pooled_prompt_embeds, len(keys))
            return
        for host in loader.host_batches():
            assert isinstance(host.conditioning, StagedBatch)
            yield Batch([], None, None, batch_size)
            assert host.staging is not None
            # What the upload does once its copies have ended.
            loader._stagings.put(host.staging)


def decoded_batches(folder: Path, batch_size: int, *, once: bool, threads: int = 2) -> Batches:
    """Decoding alone, the bound of any loader of these files: record batches in order, by threads, nothing assembled.

    Nothing is fetched (the parts are mapped), no checksum is computed.
    """
    del batch_size
    assert not once, "nothing is assembled that could be compared"
    return _decoded(*_mapped_chunks(folder), threads)


def level_1_batches(folder: Path, batch_size: int, *, once: bool, threads: int = 2) -> Batches:
    """Decoding alone of the same record batches as Arrow's own codec compresses them, at ZSTD level 1; in memory."""
    del batch_size
    assert not once, "nothing is assembled that could be compared"
    chunks, schema = _mapped_chunks(folder)
    options = ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1))
    compressed = []
    for chunk in chunks:
        sink = pa.BufferOutputStream()
        with ipc.new_stream(sink, schema, options=options) as writer:
            writer.write_batch(ipc.read_record_batch(ipc.read_message(chunk), schema))
        compressed.append(sink.getvalue()[schema.serialize().size :])
    return _decoded(compressed, schema, threads)


def _mapped_chunks(folder: Path) -> tuple[list[pa.Buffer], pa.Schema]:
    dataset = Dataset(str(folder))
    chunks = []
    for shard in dataset.shards(_GROUP):
        parts = {
            part.name: pa.memory_map(str(folder / part_path(shard, part.name))).read_buffer()
            for part in dataset.record(_GROUP, shard).parts
        }
        for part, chunk in dataset.record(_GROUP, shard).chunks():
            chunks.append(parts[part.name].slice(chunk.offset, chunk.num_bytes))
    return chunks, caption_schema(dataset.manifest, _GROUP, "")


def _decoded(chunks: list[pa.Buffer], schema: pa.Schema, threads: int) -> Batches:
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[int]] = deque()
        while True:
            for chunk in chunks:
                pending.append(pool.submit(_decode, chunk, schema))
                if len(pending) > 2 * threads:
                    yield Batch([], None, None, pending.popleft().result())


def stored_bytes(folder: Path) -> int:
    """Of the parts: what a run reads."""
    return sum(path.stat().st_size for path in folder.glob("shards/**/*.arrow"))


@contextmanager
def _loader(folder: Path, batch_size: int, *, once: bool, merge: Literal["host", "device"]) -> Iterator[StreamLoader]:
    loader = StreamLoader(
        [Dataset(str(folder))],
        # As the peers' workers, tried: 512 samples are mixed at any time, and memory is soon all in use.
        StreamConfig(captions=(_GROUP,), merge=merge, num_streams=16, memory_bytes=1024**3, num_readers=4),
        ConditioningConfig(dropout=(0.0, 0.0, 0.0)),
        seed=0,
        batch_size=batch_size,
        num_epochs=1 if once else None,
    )
    try:
        yield loader
    finally:
        loader.close()


def _decode(chunk: pa.Buffer, schema: pa.Schema) -> int:
    return int(ipc.read_record_batch(ipc.read_message(chunk), schema).num_rows)


def _identity() -> CaptionIdentity:
    """Of the real sizes; as `encode sd3` writes it, but for the digests."""
    digest = hashlib.sha256(b"benchmark").hexdigest()
    return CaptionIdentity(
        **{
            name: EncoderIdentity(
                name=name,
                source=f"benchmark/{name}",
                revision=None,
                weights_sha256=digest,
                tokenizer="transformers",
                tokenizer_sha256=digest,
                exclamation_as_pad=False,
                architecture={},
                hidden_layer="final norm" if name == "t5" else "penultimate, no final norm",
                hidden_size=values.WIDTHS[name],
                pooled_size=None if name == "t5" else values.WIDTHS[name],
                max_tokens=values.NUM_TOKENS,
                pad_token_id=0,
                eos_token_id=1,
                padding="max_length",
                attention_mask=False,
                compute_dtype="bfloat16",
                storage_dtype="bfloat16",
            )
            for name in ENCODER_NAMES
        }
    )


def _write_shard(store: Store, manifest: Manifest, shard: str, first: int, samples: values.Bits) -> None:
    schema = caption_schema(manifest, _GROUP, shard)
    keys = [values.key(first + index) for index in range(len(samples))]
    captions = [values.caption(first + index) for index in range(len(samples))]
    step = manifest.layout.chunk_rows

    def chunks() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(samples), step):
            rows = slice(start, start + step)
            encoders = {name: _encoder_rows(name, samples[rows]) for name in ENCODER_NAMES}
            encoded = np.ones(len(keys[rows]), bool)
            yield caption_batch(schema, manifest.captions, keys[rows], captions[rows], encoded, encoders)

    rejects = prepare_rejects([])
    record = LedgerRecord(
        format_version=FORMAT_VERSION,
        group=_GROUP,
        shard=shard,
        identity_sha256=manifest.identity_sha256,
        keys_sha256=keys_sha256(keys),
        num_inputs=len(keys),
        num_rows=len(keys),
        num_encoded=len(keys),
        num_rejects=0,
        source=Source(url=f"memory/{shard}.tar", num_bytes=1, e_tag=None, damage=()),
        parts=store_parts(store, chunks(), schema, _GROUP, shard, manifest.layout),
        rejects=rejects.entry,
        stats={name: _stats(name, len(keys)) for name in ENCODER_NAMES},
        writer=Writer(run_id="benchmark", attempt=1, host="benchmark", device="cpu", seconds=0.0, versions={}),
    )
    assert commit(store, record, rejects)


def _encoder_rows(name: str, samples: values.Bits) -> EncoderRows:
    tensors = [values.tensors(sample) for sample in samples]
    num_rows, pooled = len(samples), name != "t5"

    def stack(tensor: str) -> npt.NDArray[np.generic]:
        return np.concatenate([found[tensor] for found in tensors]).view(ml_dtypes.bfloat16)

    return EncoderRows(
        num_tokens=np.full(num_rows, values.NUM_TOKENS, np.int32),
        truncated=np.zeros(num_rows, bool),
        hidden=stack(name).reshape(-1, values.WIDTHS[name]),
        hidden_tokens=np.full(num_rows, values.NUM_TOKENS, np.int64),
        pooled=stack(f"{name}_pooled").reshape(num_rows, -1) if pooled else None,
        eos=stack(f"{name}_eos").reshape(num_rows, -1) if pooled else None,
    )


def _stats(name: str, num_rows: int) -> EncoderStats:
    num_values = values.WIDTHS[name] * (values.NUM_TOKENS + (0 if name == "t5" else 2))
    return EncoderStats(num_tokens=num_rows * values.NUM_TOKENS, num_truncated=0, raw_bytes=2 * num_rows * num_values)

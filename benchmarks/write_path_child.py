"""One process of `benchmarks.write_path`: writes made-up captions with the packages of the commit on its path.

It reads one request a line and answers each with one line, both JSON. It is started with a path that leads to another
commit's packages, so it uses only names that this commit and the baseline both have.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

import schemas
from benchmarks.loader import values
from pipeline.ahead import ahead
from pipeline.counters import Counters
from pipeline.encoded import EncodedBatch, EncodedWindow
from pipeline.packing import pack_chunks
from pipeline.provenance import now
from schemas import compression
from schemas.arrow_schema import caption_schema
from schemas.commit import commit, prepare_rejects, store_parts
from schemas.identity import ENCODER_NAMES, CaptionIdentity, EncoderIdentity
from schemas.ledger import EncoderStats, LedgerRecord, Part, Source, Writer, keys_sha256
from schemas.manifest import FORMAT_VERSION, Layout, Manifest, Provenance, create_or_require_same
from schemas.storage import Store

CHUNK_ROWS = {"sd3": 32, "compact": 64}
"""As `encode` chooses them for the real encoders."""
_WINDOW_CHUNKS = 2
_PART_BYTES = 64 * 1024**2
_GROUP, _SHARD = "txt", "s"
_VECTORS = ("pooled", "eos")

_Bytes = npt.NDArray[np.uint8]


class Shard:
    """A shard of made-up captions. Its windows have the same values, in memory of their own, and keys of their own.

    Args:
        preset: `sd3`: 77 tokens each; `compact`: 25 on average.
        num_captions: Rows.
    """

    def __init__(self, preset: str, num_captions: int) -> None:
        self.num_captions = num_captions
        self.manifest = _manifest(preset)
        self.schema = caption_schema(self.manifest, _GROUP, _SHARD)
        self.rows_of_a_window = min(num_captions, _WINDOW_CHUNKS * CHUNK_ROWS[preset])
        random = np.random.default_rng(0)
        tokens = np.full(self.rows_of_a_window, values.NUM_TOKENS)
        if preset == "compact":
            tokens = np.clip(
                np.rint(random.lognormal(np.log(23.5), 0.35, self.rows_of_a_window)), 5, values.NUM_TOKENS
            ).astype(int)
        # Captions are encoded by length, in another order than they are stored in.
        order = random.permutation(self.rows_of_a_window)
        self._position = np.argsort(order)
        self._starts = np.concatenate([[0], np.cumsum(tokens[order])])
        samples = [values.tensors(values.sample(row)) for row in order]
        self._hidden, self._vectors = {}, {}
        for name in ENCODER_NAMES:
            hidden = [sample[name][:num] for sample, num in zip(samples, tokens[order], strict=True)]
            self._hidden[name] = np.concatenate(hidden).view(ml_dtypes.bfloat16)
            for vector in _VECTORS if name != "t5" else ():
                stacked = np.stack([sample[f"{name}_{vector}"] for sample in samples])
                self._vectors[name, vector] = stacked.view(ml_dtypes.bfloat16)

    def write(self, folder: str, *, keep: bool = False) -> dict[str, Any]:
        """Writes the parts once; `keep`: also what makes a dataset of them."""
        target = Path(tempfile.mkdtemp(dir=folder))
        try:
            cpu, started = time.process_time(), time.perf_counter()
            with closing(ahead(self._windows(), 2, "encode")) as windows:
                chunks = pack_chunks(windows, self.schema, self.manifest)
                store = Store(str(target))
                parts = store_parts(store, chunks, self.schema, _GROUP, _SHARD, self.manifest.layout)
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            if keep:
                self._commit(store, parts)
                self._check(store)
        finally:
            shutil.rmtree(target)
        num_bytes = sum(part.num_bytes for part in parts)
        return {"seconds": seconds, "cpu_seconds": cpu, "parts": [part.name for part in parts], "num_bytes": num_bytes}

    def bare(self, folder: str) -> dict[str, float]:
        """Processor time of each part of the work for one window, in this thread, nothing else being done."""
        hidden = [*self._hidden.values(), *self._vectors.values()]
        seconds: dict[str, float] = {}
        planes = _timed(seconds, "split", lambda: [plane for array in hidden for plane in split(array)])
        views = [memoryview(plane) for plane in planes]
        frames = _timed(seconds, "compress", lambda: [compression.compress([view])[0] for view in views])
        pieces = [view if frame is None else frame for view, frame in zip(views, frames, strict=True)]
        _timed(seconds, "xxh3", lambda: [xxhash.xxh3_64_digest(piece) for piece in pieces])
        _timed(seconds, "sha256", lambda: [hashlib.sha256(piece).digest() for piece in pieces])
        # Not what the others are compared with; it tells where the rest of the time goes.
        packed = list(pack_chunks(self._windows(self.rows_of_a_window), self.schema, self.manifest))
        _timed(seconds, "pack", lambda: [chunk.make() for chunk in packed])
        _timed(seconds, "write file", partial(_write, Path(folder) / "pieces", pieces))
        return seconds

    def _windows(self, num_captions: int | None = None) -> Iterator[EncodedWindow]:
        for start in range(0, num_captions or self.num_captions, self.rows_of_a_window):
            rows = range(min(self.rows_of_a_window, self.num_captions - start))
            batches = {name: self._batch(name) for name in ENCODER_NAMES}
            tokens = np.diff(self._starts)
            found = []
            for row in rows:
                place = int(self._position[row])
                num = int(tokens[place])
                found.append({name: batch.caption(place, num, truncated=False) for name, batch in batches.items()})
            keys = [values.key(start + row) for row in rows]
            yield EncodedWindow(keys, [values.caption(start + row) for row in rows], found, [], Counters())

    def _batch(self, name: str) -> EncodedBatch:
        pooled, eos = (None if name == "t5" else _planes(self._vectors[name, vector]) for vector in _VECTORS)
        return EncodedBatch(
            _planes(self._hidden[name]), self._starts, pooled, eos, np.ones(self.rows_of_a_window, bool)
        )

    def _commit(self, store: Store, parts: tuple[Part, ...]) -> None:
        create_or_require_same(store, self.manifest)
        rejects = prepare_rejects([])
        keys = [values.key(row) for row in range(self.num_captions)]
        record = LedgerRecord(
            format_version=FORMAT_VERSION,
            group=_GROUP,
            shard=_SHARD,
            identity_sha256=self.manifest.identity_sha256,
            keys_sha256=keys_sha256(keys),
            num_inputs=len(keys),
            num_rows=len(keys),
            num_encoded=len(keys),
            num_rejects=0,
            source=Source(url=f"memory/{_SHARD}.tar", num_bytes=1, e_tag=None, damage=()),
            parts=parts,
            rejects=rejects.entry,
            stats={name: EncoderStats(num_tokens=1, num_truncated=0, raw_bytes=1) for name in ENCODER_NAMES},
            writer=Writer(run_id="benchmark", attempt=1, host="benchmark", device="cpu", seconds=0.0, versions={}),
        )
        assert commit(store, record, rejects)

    def _check(self, store: Store) -> None:
        """Reads all of it back."""
        rows = schemas.open_dataset(store.url, source="ledger").rows(_GROUP)
        count = 0
        for count, row in enumerate(rows, start=1):
            place = int(self._position[(count - 1) % self.rows_of_a_window])
            tokens = slice(self._starts[place], self._starts[place + 1])
            _require(row.key, values.key(count - 1), count)
            _require(row.caption, values.caption(count - 1), count)
            for name in ENCODER_NAMES:
                _require(row[name].hidden.tobytes(), self._hidden[name][tokens].tobytes(), count)
                for vector in _VECTORS if name != "t5" else ():
                    written = self._vectors[name, vector][place].tobytes()
                    _require(getattr(row[name], vector).tobytes(), written, count)
        _require(count, self.num_captions, count)


def split(array: npt.NDArray[np.generic]) -> list[_Bytes]:
    """An array's two byte planes, as the encode engine makes them on a processor; the same code for both commits."""
    bits = array.reshape(-1).view(np.uint16)
    high = np.empty(bits.shape, np.uint8)
    np.right_shift(bits, 8, out=high, casting="unsafe")
    return [high, bits.astype(np.uint8)]


def _planes(array: npt.NDArray[np.generic]) -> list[_Bytes]:
    return [plane.reshape(array.shape) for plane in split(array)]


def _require(found: object, written: object, row: int) -> None:
    if found != written:
        raise SystemExit(f"row {row} of the dataset is not what was written")


def _timed(seconds: dict[str, float], name: str, call: Callable[[], Any]) -> Any:
    started = time.thread_time()
    found = call()
    seconds[name] = time.thread_time() - started
    return found


def _write(path: Path, pieces: list[bytes | memoryview]) -> None:
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
    path.unlink()


def _manifest(preset: str) -> Manifest:
    """Of the real encoders' sizes; as `encode` writes it, but for the digests."""
    digest = hashlib.sha256(b"benchmark").hexdigest()
    encoders = {
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
            padding="max_length" if preset == "sd3" else "none",
            attention_mask=False,
            compute_dtype="bfloat16",
            storage_dtype="bfloat16",
        )
        for name in ENCODER_NAMES
    }
    layout = Layout(container="arrow", chunk_rows=CHUNK_ROWS[preset], part_bytes=_PART_BYTES)
    created = Provenance(run_id="benchmark", time=now(), versions={})
    return Manifest(layout=layout, captions=CaptionIdentity(**encoders), created=created)


def _use_cores(cores: list[int]) -> None:
    """Limits all threads of this process, also later ones."""
    pa.set_cpu_count(len(cores))
    if hasattr(os, "sched_setaffinity"):
        for thread in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):  # it has just ended
                os.sched_setaffinity(int(thread.name), cores)


def main() -> None:
    # As a worker's: `pipeline.process_settings`.
    pa.set_memory_pool(pa.system_memory_pool())
    shard: Shard | None = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        if request["do"] == "prepare":
            shard = Shard(request["preset"], request["captions"])
        else:
            assert shard is not None
            _use_cores(request["cores"])
            if request["do"] == "bare":
                answer = shard.bare(request["folder"])
                answer = {name: 1e6 * seconds / shard.rows_of_a_window for name, seconds in answer.items()}
            else:
                answer = shard.write(request["folder"], keep=request["do"] == "check")
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

"""Caption groups: read and tokenized in one thread, encoded in the device's thread, packed into chunks in a third."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Mapping
from contextlib import closing

import pyarrow as pa

from pipeline.ahead import Queues, ahead
from pipeline.counters import Counters
from pipeline.device_thread import DeviceThread
from pipeline.encoded import EncodedWindow
from pipeline.encoders import TextEncoder
from pipeline.engine import EncodeEngine
from pipeline.engine_settings import EngineSettings
from pipeline.group_encoder import Samples
from pipeline.packing import pack_chunks
from pipeline.repeated_captions import RepeatedCaptions
from pipeline.windows import read_windows, window_rows
from schemas.arrow_schema import caption_schema
from schemas.identity import ENCODER_NAMES, CaptionIdentity, require_same
from schemas.ledger import EncoderStats
from schemas.manifest import Layout, Manifest
from schemas.parts import LazyBatch
from schemas.rejects import Reject


class CaptionGroups:
    """Encodes caption groups.

    Args:
        manifest: The dataset's, as stored.
        encoders: All three.
        settings: Budgets.
        where: The manifest's place and this machine, for errors.
        queues: Where people can see how full the queues between stages are.
        thread: Where the device is used, for one shard after the other; default: one of its own.

    Raises:
        IdentityMismatchError: The encoders loaded here are not the manifest's, such as other weights on this node.
    """

    def __init__(
        self,
        manifest: Manifest,
        encoders: Mapping[str, TextEncoder],
        settings: EngineSettings,
        where: str,
        queues: Queues | None = None,
        thread: DeviceThread | None = None,
    ) -> None:
        loaded = CaptionIdentity(**{name: encoders[name].identity for name in ENCODER_NAMES})
        require_same(manifest.captions, loaded, where=where)
        self.manifest = manifest
        self.settings = settings
        self.queues = queues
        self.thread = thread or DeviceThread()
        # What it measures is computed where everything is.
        self.engine = self.thread.submit(EncodeEngine, encoders, settings.batch_tokens).result()

    @property
    def identity_sha256(self) -> str:
        """The manifest's."""
        return self.manifest.identity_sha256

    @property
    def layout(self) -> Layout:
        """The manifest's."""
        return self.manifest.layout

    def schema(self, group: str, shard: str) -> pa.Schema:
        """Of the group's parts."""
        return caption_schema(self.manifest, group, shard)

    def begin(self, samples: Samples, group: str) -> CaptionPass:
        """Encodes the captions of a group, as its batches are taken."""
        return CaptionPass(self, samples, group)


class CaptionPass:
    """One caption group of one shard."""

    def __init__(self, groups: CaptionGroups, samples: Samples, group: str) -> None:
        self.num_encoded = 0
        self.rejects: list[Reject] = []
        self._groups = groups
        self._samples = samples
        self._group = group
        self._stats: dict[str, list[int]] = {name: [0, 0, 0] for name in ENCODER_NAMES}

    def batches(self, schema: pa.Schema, count: Callable[[Counters], None]) -> Generator[LazyBatch, None, None]:
        """The group's chunks in row order."""

        def counted() -> Generator[EncodedWindow, None, None]:
            with closing(self._encoded()) as windows:
                for window in windows:
                    count(window.counters + self._add(window))
                    yield window

        with closing(counted()) as windows:
            yield from pack_chunks(windows, schema, self._groups.manifest)

    def stats(self) -> dict[str, EncoderStats]:
        """Sums by encoder."""
        return {
            name: EncoderStats(num_tokens=tokens, num_truncated=truncated, raw_bytes=raw_bytes)
            for name, (tokens, truncated, raw_bytes) in self._stats.items()
        }

    def _encoded(self) -> Generator[EncodedWindow, None, None]:
        """The group's windows, read and tokenized in one thread, encoded in the device's."""
        settings, engine = self._groups.settings, self._groups.engine
        rows = window_rows(self._groups.manifest, settings.window_bytes)
        hashes = _repeated_hashes(self._samples, self._group, rows)
        repeated = RepeatedCaptions(hashes, settings.repeated_bytes)
        tokenizers = {name: encoder.tokenizer for name, encoder in engine.encoders.items()}
        read, queues = read_windows(self._samples, self._group, rows, tokenizers), self._groups.queues
        with closing(ahead(read, 2, "tokenize", queues)) as windows:
            # Before the device's thread is asked for: it must not wait for a shard to be read.
            first = list(itertools.islice(windows, 1))
            encoded = engine.encode(itertools.chain(first, windows), repeated)
            del first
            with closing(ahead(encoded, 2, "encode", queues, self._groups.thread)) as out:
                yield from out

    def _add(self, window: EncodedWindow) -> Counters:
        """Takes a window into the sums; returns its raw bytes."""
        before = sum(raw_bytes for _, _, raw_bytes in self._stats.values())
        for row in window.rows:
            if row is None:
                continue
            self.num_encoded += 1
            for name, tensors in row.items():
                stats = self._stats[name]
                stats[0] += tensors.num_tokens
                stats[1] += tensors.truncated
                stats[2] += tensors.num_bytes
        dtype = self._groups.manifest.captions.t5.storage_dtype
        for index in window.not_finite:
            reason = f"an encoder's output is NaN or infinite as {dtype}; store as bfloat16 or float32 if it overflows"
            self.rejects.append(Reject(key=window.keys[index], code="output-not-finite", reason=reason))
        return Counters(raw_bytes=sum(raw_bytes for _, _, raw_bytes in self._stats.values()) - before)


def _repeated_hashes(samples: Samples, group: str, num_rows: int) -> set[int]:
    """Hashes of the captions that occur more than once; hashes, so that memory does not hold all captions twice."""
    seen: set[int] = set()
    repeated: set[int] = set()
    for start in range(0, len(samples.keys), num_rows):
        for caption in samples.captions(group, start, start + num_rows):
            if caption is not None:
                (repeated if hash(caption) in seen else seen).add(hash(caption))
    return repeated

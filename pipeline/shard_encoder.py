"""One tar, from the first byte read to the ledger record: everything a worker does for one shard, without ray."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from pipeline.ahead import ahead
from pipeline.counters import Counters
from pipeline.encoders import TextEncoder
from pipeline.engine import EncodedWindow, EncodeEngine, RepeatedCaptions
from pipeline.packing import pack_chunks
from pipeline.provenance import host_name, library_versions
from pipeline.sources import DAMAGE_CODES, InputTar, TarScan, scan_tar
from pipeline.windows import read_windows, window_rows
from schemas.arrow_schema import caption_schema
from schemas.commit import StoredRejects, commit, prepare_rejects, store_parts
from schemas.identity import ENCODER_NAMES, CaptionIdentity, require_same
from schemas.ledger import EncoderStats, LedgerRecord, Part, Source, Writer, keys_sha256
from schemas.manifest import FORMAT_VERSION, MANIFEST_PATH, Manifest
from schemas.rejects import Reject
from schemas.storage import Store

_MAX_DAMAGE_RECORDED = 100


@dataclass(frozen=True)
class EngineSettings:
    """How a worker uses its machine. None of it changes a stored value beyond rounding."""

    batch_tokens: int = 1024
    """Bound on a batch's tokens, padding included."""
    window_bytes: int = 32 * 1024**2
    """Raw output bytes of the rows that are sorted and encoded together; about three windows are in memory at once."""
    repeated_bytes: int = 64 * 1024**2
    """Bound on the outputs kept for captions that come again later in the shard."""


@dataclass(frozen=True)
class GroupResult:
    """What became of one group of one shard."""

    group: str
    committed: bool
    """False if another writer was first; its rows count, not these."""
    num_rows: int
    num_encoded: int
    num_rejects: int
    num_damage: int
    """Places at which the tar itself could not be read."""
    num_bytes: int


@dataclass(frozen=True)
class ShardResult:
    """What a worker answers for one shard."""

    shard: str
    groups: tuple[GroupResult, ...]
    counters: Counters
    seconds: float


class ShardEncoder:
    """Encodes and commits shards, one after the other.

    Args:
        inputs: Where the tars are.
        dataset: Where the dataset is.
        manifest: The dataset's, as stored.
        encoders: All three.
        settings: Budgets.
        run_id: Recorded with every shard.
        device: Recorded with every shard.

    Raises:
        IdentityMismatchError: The encoders loaded here are not the manifest's, such as other weights on this node.
    """

    def __init__(
        self,
        inputs: Store,
        dataset: Store,
        manifest: Manifest,
        encoders: Mapping[str, TextEncoder],
        settings: EngineSettings,
        run_id: str,
        device: str,
    ) -> None:
        loaded = CaptionIdentity(**{name: encoders[name].identity for name in ENCODER_NAMES})
        require_same(manifest.captions, loaded, where=f"{dataset.locate(MANIFEST_PATH)}, on {host_name()}")
        self._inputs = inputs
        self._dataset = dataset
        self._manifest = manifest
        self._engine = EncodeEngine(encoders, settings.batch_tokens)
        self._settings = settings
        self._run_id = run_id
        self._device = device
        self._versions = library_versions()
        self.live = Counters()
        """Figures of the shard at hand, or of the last one; read by other threads."""

    def encode(self, tar: InputTar, groups: Sequence[str], attempt: int) -> ShardResult:
        """Encodes a shard's groups and commits each as it is done.

        Raises:
            EncodeOnceError: The tar cannot be read or the dataset cannot be written; nothing of the group at hand is
                committed, groups before it are.
        """
        started = time.perf_counter()
        self.live = Counters()
        scan = scan_tar(self._inputs, tar, groups)
        results = tuple(self._encode_group(scan, tar, group, attempt) for group in groups)
        return ShardResult(tar.shard, results, self.live, time.perf_counter() - started)

    def _encode_group(self, scan: TarScan, tar: InputTar, group: str, attempt: int) -> GroupResult:
        started = time.perf_counter()
        tally = _Tally(self._manifest.captions)
        with closing(self._encoded(scan, group)) as windows:
            schema = caption_schema(self._manifest, group, tar.shard)
            batches = pack_chunks(self._counted(windows, tally), schema, self._manifest)
            parts = store_parts(self._dataset, batches, schema, group, tar.shard, self._manifest.layout)
        # Damage hides nobody knows how many inputs; it stands in the record, not among the rejects that are counted.
        rejects = [reject for reject in scan.rejects_of(group) if reject.code not in DAMAGE_CODES] + tally.not_finite
        record, stored = self._record(scan, tar, group, attempt, parts, tally, rejects, time.perf_counter() - started)
        committed = commit(self._dataset, record, stored)
        self.live += Counters(num_rejects=record.num_rejects, num_bytes=record.num_bytes)
        return GroupResult(
            group,
            committed,
            record.num_rows,
            record.num_encoded,
            record.num_rejects,
            len(scan.damage),
            record.num_bytes,
        )

    def _encoded(self, scan: TarScan, group: str) -> Generator[EncodedWindow, None, None]:
        """The group's windows, read and tokenized in one thread, encoded in another."""
        rows = window_rows(self._manifest, self._settings.window_bytes)
        repeated = RepeatedCaptions(_repeated_hashes(scan, group, rows), self._settings.repeated_bytes)
        tokenizers = {name: encoder.tokenizer for name, encoder in self._engine.encoders.items()}
        with closing(ahead(read_windows(scan, group, rows, tokenizers), 2, "tokenize")) as windows:
            encoded = self._engine.encode(windows, repeated)
            with closing(ahead(encoded, 2, "encode")) as out:
                yield from out

    def _counted(self, windows: Iterable[EncodedWindow], tally: _Tally) -> Iterator[EncodedWindow]:
        for window in windows:
            self.live += window.counters + tally.add(window)
            yield window

    def _record(
        self,
        scan: TarScan,
        tar: InputTar,
        group: str,
        attempt: int,
        parts: tuple[Part, ...],
        tally: _Tally,
        rejected: Sequence[Reject],
        seconds: float,
    ) -> tuple[LedgerRecord, StoredRejects]:
        rejects = prepare_rejects(rejected)
        record = LedgerRecord(
            format_version=FORMAT_VERSION,
            group=group,
            shard=tar.shard,
            identity_sha256=self._manifest.identity_sha256,
            keys_sha256=keys_sha256(scan.keys),
            # Counted from the tar, not from the results: the record refuses sums that do not add up.
            num_inputs=scan.num_inputs(group),
            num_rows=len(scan.keys),
            num_encoded=tally.num_encoded,
            num_rejects=len(rejected),
            source=Source(
                url=self._inputs.locate(tar.path),
                num_bytes=tar.num_bytes,
                e_tag=tar.e_tag,
                damage=tuple(scan.damage[:_MAX_DAMAGE_RECORDED]),
            ),
            parts=parts,
            rejects=rejects.entry,
            stats=tally.stats(),
            writer=Writer(
                run_id=self._run_id,
                attempt=attempt,
                host=host_name(),
                device=self._device,
                seconds=round(seconds, 3),
                versions=self._versions,
            ),
        )
        return record, rejects


def _repeated_hashes(scan: TarScan, group: str, num_rows: int) -> set[int]:
    """Hashes of the captions that occur more than once; hashes, so that memory does not hold all captions twice."""
    seen: set[int] = set()
    repeated: set[int] = set()
    for start in range(0, len(scan.keys), num_rows):
        for caption in scan.captions(group, start, start + num_rows):
            if caption is not None:
                (repeated if hash(caption) in seen else seen).add(hash(caption))
    return repeated


class _Tally:
    """Sums over a group's rows while they pass."""

    def __init__(self, identity: CaptionIdentity) -> None:
        self.num_encoded = 0
        self.not_finite: list[Reject] = []
        self._identity = identity
        self._stats: dict[str, list[int]] = {name: [0, 0, 0] for name in ENCODER_NAMES}

    def add(self, window: EncodedWindow) -> Counters:
        """Counts a window; returns its raw bytes."""
        raw_bytes = 0
        for row in window.rows:
            if row is None:
                continue
            self.num_encoded += 1
            for name, tensors in row.items():
                stats = self._stats[name]
                stats[0] += tensors.num_tokens
                stats[1] += tensors.truncated
                stats[2] += tensors.num_bytes
                raw_bytes += tensors.num_bytes
        dtype = self._identity.t5.storage_dtype
        for index in window.not_finite:
            reason = f"an encoder's output is NaN or infinite as {dtype}; store as bfloat16 or float32 if it overflows"
            self.not_finite.append(Reject(key=window.keys[index], code="output-not-finite", reason=reason))
        return Counters(raw_bytes=raw_bytes)

    def stats(self) -> dict[str, EncoderStats]:
        return {
            name: EncoderStats(num_tokens=tokens, num_truncated=truncated, raw_bytes=raw_bytes)
            for name, (tokens, truncated, raw_bytes) in self._stats.items()
        }

"""One shard, from its samples to the ledger records: everything a worker does for one tar, without ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from pipeline.ahead import Queues
from pipeline.caption_groups import CaptionGroups
from pipeline.counters import Counters
from pipeline.device_thread import DeviceThread
from pipeline.encoders import TextEncoder
from pipeline.engine_settings import EngineSettings
from pipeline.group_encoder import GroupEncoder, Samples
from pipeline.provenance import host_name, library_versions
from pipeline.sources import DAMAGE_CODES, InputTar, scan_tar
from schemas.commit import commit, prepare_rejects, store_parts
from schemas.latent_manifest import LATENTS_GROUP
from schemas.ledger import LedgerRecord, Source, Writer, keys_sha256
from schemas.manifest import FORMAT_VERSION, MANIFEST_PATH, Manifest
from schemas.parts import encoding_pool
from schemas.storage import Store

__all__ = ["EngineSettings", "GroupResult", "ShardEncoder", "ShardResult"]

_MAX_DAMAGE_RECORDED = 100


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
    """Encodes and commits shards. Several threads may each work on one; the device has one at a time.

    Args:
        inputs: Where the tars are.
        dataset: Where the dataset is.
        manifest: The captions', as stored; None if only images are encoded.
        encoders: All three.
        settings: Budgets.
        run_id: Recorded with every shard.
        device: Recorded with every shard.
        latents: Encodes the images, if they are to be.
        on_count: Told of everything that adds to the figures, as it happens.
        queues: Where people can see how full the queues between stages are.
        thread: Where the device is used; `latents` has the same one. Default: one of its own.

    Raises:
        IdentityMismatchError: The encoders loaded here are not the manifest's, such as other weights on this node.
    """

    def __init__(
        self,
        inputs: Store,
        dataset: Store,
        manifest: Manifest | None,
        encoders: Mapping[str, TextEncoder],
        settings: EngineSettings,
        run_id: str,
        device: str,
        latents: GroupEncoder | None = None,
        on_count: Callable[[Counters], None] | None = None,
        queues: Queues | None = None,
        thread: DeviceThread | None = None,
    ) -> None:
        where = f"{dataset.locate(MANIFEST_PATH)}, on {host_name()}"
        self._captions = None
        if manifest is not None:
            self._captions = CaptionGroups(manifest, encoders, settings, where, queues, thread)
        self._on_count = on_count
        self._latents = latents
        self._inputs = inputs
        self._dataset = dataset
        self._run_id = run_id
        self._device = device
        # What was chosen for this device decides the last bits of the values.
        chosen = {f"operations.{name}": encoder.tower.operations.describe() for name, encoder in encoders.items()}
        self._versions = library_versions() | chosen
        self._pool = encoding_pool()
        self._live: dict[str, Counters] = {}

    def encode(self, tar: InputTar, groups: Sequence[str], attempt: int) -> ShardResult:
        """Encodes groups of a tar and commits each as it is done.

        Raises:
            EncodeOnceError: The tar cannot be read or the dataset cannot be written; nothing of the group at hand is
                committed, groups before it are.
        """
        started = time.perf_counter()
        if not groups:  # An attempt before this one had committed them all, and died before it could say so.
            return ShardResult(tar.shard, (), Counters(), 0.0)
        self._live[tar.shard] = Counters()
        try:
            results = self._encode_all(tar, groups, attempt)
        finally:
            counters = self._live.pop(tar.shard)
        return ShardResult(tar.shard, results, counters, time.perf_counter() - started)

    @property
    def live(self) -> dict[str, Counters]:
        """Figures of the shards at hand, for other threads."""
        return dict(self._live)

    def _encode_all(self, tar: InputTar, groups: Sequence[str], attempt: int) -> tuple[GroupResult, ...]:
        columns = [group for group in groups if group != LATENTS_GROUP]
        scan = scan_tar(self._inputs, tar, columns, images=LATENTS_GROUP in groups)
        source = Source(
            url=self._inputs.locate(tar.path),
            num_bytes=tar.num_bytes,
            e_tag=tar.e_tag,
            damage=tuple(scan.damage[:_MAX_DAMAGE_RECORDED]),
        )
        return tuple(self.encode_group(scan, source, tar.shard, group, attempt) for group in groups)

    def encode_group(self, samples: Samples, source: Source, shard: str, group: str, attempt: int) -> GroupResult:
        """Encodes and commits one group of samples that were read already.

        Raises:
            EncodeOnceError: As `encode`.
        """
        started = time.perf_counter()
        encoder = self._latents if group == LATENTS_GROUP else self._captions
        assert encoder is not None, f"nothing was loaded for group {group!r}"
        work = encoder.begin(samples, group)
        schema = encoder.schema(group, shard)
        with closing(work.batches(schema, partial(self._count, shard))) as batches:
            parts = store_parts(self._dataset, batches, schema, group, shard, encoder.layout, self._pool)
        # Damage hides nobody knows how many inputs; it stands in the record, not among the rejects that are counted.
        rejected = [reject for reject in samples.rejects_of(group) if reject.code not in DAMAGE_CODES] + work.rejects
        rejects = prepare_rejects(rejected)
        record = LedgerRecord(
            format_version=FORMAT_VERSION,
            group=group,
            shard=shard,
            identity_sha256=encoder.identity_sha256,
            keys_sha256=keys_sha256(samples.keys),
            # Counted from the samples, not from the results: the record refuses sums that do not add up.
            num_inputs=samples.num_inputs(group),
            num_rows=len(samples.keys),
            num_encoded=work.num_encoded,
            num_rejects=len(rejected),
            source=source,
            parts=parts,
            rejects=rejects.entry,
            stats=dict(work.stats()),
            writer=self._writer(attempt, time.perf_counter() - started),
        )
        committed = commit(self._dataset, record, rejects)
        self._count(shard, Counters(num_rejects=record.num_rejects, num_bytes=record.num_bytes))
        return GroupResult(
            group,
            committed,
            record.num_rows,
            record.num_encoded,
            record.num_rejects,
            len(samples.damage),
            record.num_bytes,
        )

    def _count(self, shard: str, counters: Counters) -> None:
        if shard in self._live:
            self._live[shard] += counters
        if self._on_count is not None:
            self._on_count(counters)

    def _writer(self, attempt: int, seconds: float) -> Writer:
        return Writer(
            run_id=self._run_id,
            attempt=attempt,
            host=host_name(),
            device=self._device,
            seconds=round(seconds, 3),
            versions=self._versions,
        )

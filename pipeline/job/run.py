"""A plan, carried out: a cluster is joined, workers encode shards, what cannot be encoded is quarantined."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from pipeline.caption_options import encoder_config
from pipeline.counters import Counters
from pipeline.encoders import EncoderConfig
from pipeline.engine_settings import CPU_SETTINGS, GPU_SETTINGS
from pipeline.job.cluster import connect, room_for, worker_shape
from pipeline.job.events import Event, UnitFailed, UnitFailure
from pipeline.job.lease import Lease
from pipeline.job.loop import run_units
from pipeline.job.loop_config import LoopConfig
from pipeline.job.plan import Plan
from pipeline.job.progress import Progress
from pipeline.job.worker import MAX_SHARDS_PER_WORKER, EncodeWorker, WorkerOrder
from pipeline.latents import LatentOptions
from pipeline.presets import EncodeConfig
from pipeline.provenance import now
from pipeline.shard_encoder import ShardResult
from pipeline.sources import Inputs
from schemas.identity import ENCODER_NAMES
from schemas.latent_manifest import LatentManifest, Manifests
from schemas.manifest import Manifest
from schemas.quarantine import Quarantined, write_quarantined
from schemas.storage import Store


@dataclass(frozen=True)
class JobOutcome:
    """What a run did.

    Attributes:
        shards: Results, in the order they came.
        failures: Shards given up in this run.
        num_unfinished: Shards not begun, or begun and interrupted.
        stopped: Why the run stopped early; None if it did not.
        seconds: Wall time of the encoding.
        num_workers: Workers asked for.
        device: What they ran on.
    """

    shards: tuple[ShardResult, ...]
    failures: tuple[UnitFailure, ...]
    num_unfinished: int
    stopped: str | None
    seconds: float
    num_workers: int
    device: str

    @property
    def counters(self) -> Counters:
        """Totals of the run."""
        return sum((shard.counters for shard in self.shards), Counters())

    @classmethod
    def nothing_to_do(cls) -> JobOutcome:
        """The outcome of a run that found everything done."""
        return cls((), (), 0, None, 0.0, 0, "none")


def run_job(
    config: EncodeConfig, plan: Plan, inputs: Inputs, dataset: Store, manifests: Manifests, run_id: str, lease: Lease
) -> JobOutcome:
    """Encodes everything in `plan.todo`, as far as it can be.

    Raises:
        EncodeOnceError: No cluster, no workers, or workers whose encoders are not the manifest's.
    """
    started = time.monotonic()
    with _stop_on_signals() as stop, connect(config.ray_address) as cluster:
        shape = worker_shape(cluster, config.num_workers, device=config.device, gpus_per_worker=config.gpus_per_worker)
        device = "cuda" if shape.num_gpus else "cpu"
        order = _order(config, plan, inputs, dataset, manifests, run_id, device, shape.num_threads)
        progress = Progress(num_units=len(plan.todo), num_done_before=plan.num_shards - len(plan.todo))

        def on_event(event: Event) -> None:
            if isinstance(event, UnitFailed):
                _quarantine(event.failure, plan, inputs, dataset, run_id)
            progress.on_event(event)

        loop = LoopConfig(
            num_workers=shape.num_workers,
            find_room=(lambda: room_for(cluster, shape)) if config.num_workers is None else None,
            units_per_worker=order.settings.shards_in_hand,
            nodes_can_join=not cluster.is_local,
            max_attempts=config.max_attempts,
            unit_timeout_seconds=config.shard_timeout_seconds,
            stop_grace_seconds=config.stop_grace_seconds,
        )
        # ray.remote has made something else of the class, which its types do not say.
        remote_class: Any = EncodeWorker
        actor = remote_class.options(num_cpus=shape.num_cpus, num_gpus=shape.num_gpus)
        with progress:
            result = run_units(
                plan.todo, lambda: actor.remote(order), loop, on_event, lambda: stop.is_set() or lease.lost
            )
    return JobOutcome(
        shards=tuple(result.done.values()),
        failures=tuple(result.failures),
        num_unfinished=len(result.interrupted) + len(result.not_started),
        stopped=result.stopped,
        seconds=time.monotonic() - started,
        num_workers=shape.num_workers,
        device=device,
    )


def _order(
    config: EncodeConfig,
    plan: Plan,
    inputs: Inputs,
    dataset: Store,
    manifests: Manifests,
    run_id: str,
    device: str,
    num_threads: int,
) -> WorkerOrder:
    settings = GPU_SETTINGS if device == "cuda" else CPU_SETTINGS
    settings = dataclasses.replace(settings, num_decoders=num_threads)
    if config.shards_per_worker is not None:
        in_hand = min(config.shards_per_worker, MAX_SHARDS_PER_WORKER)
        settings = dataclasses.replace(settings, shards_in_hand=in_hand)
    if config.batch_tokens is not None:
        settings = dataclasses.replace(settings, batch_tokens=config.batch_tokens)
    captions, latents = manifests.captions, manifests.latents
    encoders: dict[str, EncoderConfig] = {}
    if captions is not None:
        encoders = {name: _pinned(config, captions, name) for name in ENCODER_NAMES}
    return WorkerOrder(
        inputs=inputs.store,
        dataset=dataset,
        manifest=None if captions is None else captions.dump(),
        groups=plan.columns,
        encoders=encoders,
        latent_manifest=None if latents is None else latents.dump(),
        latents=_latent_options(config, latents),
        device=device,
        num_threads=num_threads,
        settings=settings,
        run_id=run_id,
    )


def _pinned(config: EncodeConfig, manifest: Manifest, name: str) -> EncoderConfig:
    """A branch of the hub may move while the job runs; workers load the commit that the manifest names."""
    encoder = encoder_config(config, name)
    return dataclasses.replace(encoder, revision=manifest.captions.encoder(name).revision or encoder.revision)


def _latent_options(config: EncodeConfig, manifest: LatentManifest | None) -> LatentOptions:
    """As `_pinned`."""
    revision = manifest.latents.revision if manifest is not None else None
    vae = dataclasses.replace(config.vae, revision=revision or config.vae.revision)
    return LatentOptions(latents=config.latents, images=config.images, vae=vae)


def _quarantine(failure: UnitFailure, plan: Plan, inputs: Inputs, dataset: Store, run_id: str) -> None:
    """Noted at once, so that it is not lost with a driver that dies later."""
    unit = plan.todo[failure.unit]
    for group in unit.groups:
        note = Quarantined(
            group=group,
            shard=failure.unit,
            source_url=inputs.store.locate(unit.tar.path),
            source_bytes=unit.tar.num_bytes,
            source_e_tag=unit.tar.e_tag,
            attempts=failure.attempts,
            reasons=failure.reasons,
            run_id=run_id,
            time=now(),
        )
        write_quarantined(dataset, note)


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """SIGTERM and Ctrl-C ask for an orderly stop; the second one ends the process."""
    stop = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        name = signal.Signals(number).name
        print(f"{name}: finishing the shards in flight; once more to stop at once", flush=True)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""The Ray actor: loads the encoders once, then encodes shards."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import ray
import torch

from pipeline.ahead import Queues
from pipeline.compute_dtype import slow_compute_warning
from pipeline.core_share import pin_to_own_cores
from pipeline.device_thread import DeviceThread
from pipeline.encoders import EncoderConfig, TextEncoder, load_encoder
from pipeline.job.ray_metrics import RayMetrics
from pipeline.latents import LatentOptions, load_latents
from pipeline.latents.groups import LatentGroups
from pipeline.live import LiveFigures
from pipeline.process_settings import apply_process_settings
from pipeline.provenance import host_name
from pipeline.shard_encoder import EngineSettings, ShardEncoder, ShardResult
from pipeline.sources import InputTar
from schemas.errors import MissingObjectError
from schemas.identity import ENCODER_NAMES
from schemas.latent_manifest import load_latent_manifest
from schemas.ledger import record_path
from schemas.manifest import LATENT_MANIFEST_PATH, MANIFEST_PATH, Manifest, load_manifest
from schemas.storage import Store

MAX_SHARDS_PER_WORKER = 4
"""In hand at the same time: one is computed, those before it are written, those after it are read."""


@dataclass(frozen=True)
class WorkerOrder:
    """All a worker is told. Small, and the same for every worker of a run."""

    inputs: Store
    dataset: Store
    manifest: bytes | None
    """The captions', as stored; a worker encodes for this manifest or not at all. None: no captions in this run."""
    groups: tuple[str, ...]
    encoders: dict[str, EncoderConfig]
    latent_manifest: bytes | None
    """The latents', as stored; None: no latents in this run."""
    latents: LatentOptions
    device: str
    num_threads: int
    """CPU threads for compute and for compression, each."""
    settings: EngineSettings
    run_id: str


@ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"live": 1, "shards": MAX_SHARDS_PER_WORKER})
class EncodeWorker:
    """What the loop calls: `ready`, `run`, `progress`."""

    def __init__(self, order: WorkerOrder) -> None:
        self._order = order
        self._shards: ShardEncoder | None = None
        self._metrics = RayMetrics()
        self._queues = Queues()
        self._thread = DeviceThread()

    def ready(self) -> dict[str, Any]:
        """Loads the encoders that this run needs.

        Raises:
            IdentityMismatchError: This node's weights or tokenizers are not those of the manifest.
            ConfigError: They cannot be loaded.
        """
        order = self._order
        apply_process_settings(order.num_threads)
        if order.device == "cpu":
            pin_to_own_cores(order.num_threads)
        device = torch.cuda.get_device_name() if order.device == "cuda" else "cpu"
        # Loading measures and compiles: where everything will be computed.
        manifest, encoders = self._thread.submit(_load_captions, order).result()
        latents = self._thread.submit(_load_latents, order, self._queues, self._thread).result()
        self._shards = ShardEncoder(
            order.inputs,
            order.dataset,
            manifest,
            encoders,
            order.settings,
            order.run_id,
            device,
            latents=latents,
            on_count=self._metrics.add,
            queues=self._queues,
            thread=self._thread,
        )
        context = ray.get_runtime_context()
        compute_dtypes = {encoder.identity.compute_dtype for encoder in encoders.values()}
        return {
            "pid": os.getpid(),
            "device": device,
            "node_id": context.get_node_id(),
            "warning": slow_compute_warning(compute_dtypes, order.device),
        }

    @ray.method(concurrency_group="shards")
    def run(self, shard: str, attempt: int) -> ShardResult:
        """Encodes and commits what the dataset lacks of a shard; the device computes shards one after the other.

        Raises:
            EncodeOnceError: With what is wrong with the tar or the dataset.
        """
        assert self._shards is not None
        path = f"{shard}.tar"
        info = self._order.inputs.head(path)
        if info is None:
            raise MissingObjectError(
                "input-vanished",
                where=self._order.inputs.locate(path),
                expected="the tar that was there when the run began",
                actual="not found",
                remedy="restore it, or leave it out: the run goes on without it",
            )
        tar = InputTar(shard, path, info.num_bytes, info.e_tag)
        groups = [g for g in self._order.groups if self._order.dataset.head(record_path(g, shard)) is None]
        return self._shards.encode(tar, groups, attempt)

    @ray.method(concurrency_group="live")
    def progress(self) -> LiveFigures | None:
        """Figures of the shards at hand."""
        if self._shards is None:
            return None
        depths = self._queues.depths()
        self._metrics.show(depths)
        return LiveFigures(self._shards.live, depths)


def _load_captions(order: WorkerOrder) -> tuple[Manifest | None, dict[str, TextEncoder]]:
    if order.manifest is None:
        return None, {}
    manifest = load_manifest(order.manifest, where=order.dataset.locate(MANIFEST_PATH))
    encoders: dict[str, TextEncoder] = {}
    for name in ENCODER_NAMES:
        identity = manifest.captions.encoder(name)
        encoders[name] = load_encoder(
            name,
            order.encoders[name],
            padding=identity.padding,
            compute_dtype=identity.compute_dtype,
            storage_dtype=identity.storage_dtype,
            device=order.device,
        )
    return manifest, encoders


def _load_latents(order: WorkerOrder, queues: Queues, thread: DeviceThread) -> LatentGroups | None:
    if order.latent_manifest is None:
        return None
    where = order.dataset.locate(LATENT_MANIFEST_PATH)
    manifest = load_latent_manifest(order.latent_manifest, where=where)
    identity, encoder = load_latents(order.latents, manifest.latents.compute_dtype, order.device)
    return LatentGroups(
        manifest, identity, encoder, order.latents, order.settings, f"{where}, on {host_name()}", queues, thread
    )

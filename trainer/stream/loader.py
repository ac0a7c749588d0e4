"""The stream: a training run's samples as batches on the training device.

What comes when is a pure function of the seed and one integer, the position (`order`, `mixture`, `window`); everything
else here only makes it come fast. So a run can be stopped anywhere and go on exactly, on other ranks and in other
batches: the global order of samples stays the same.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from schemas.dataset import Dataset, Row
from schemas.documents import digest
from schemas.errors import ConfigError, ContractError
from trainer.conditioning import ConditioningConfig, ContextLayout, context_layout
from trainer.stream.agreeing_datasets import empty_prompt, same_captions, same_latents
from trainer.stream.batch import Batch
from trainer.stream.budget import MemoryBudget
from trainer.stream.cache import ChunkCache
from trainer.stream.catalog import Catalog
from trainer.stream.config import StreamConfig
from trainer.stream.fetch import ChunkFetcher
from trainer.stream.host_batch import BatchMaker, HostBatch
from trainer.stream.merged import HostAssembler
from trainer.stream.mixture import GlobalOrder
from trainer.stream.order import ORDER_VERSION, OrderConfig
from trainer.stream.plan import ChunkId, Share, planned_batches
from trainer.stream.prefetch import Prefetcher, Threads
from trainer.stream.source import ChunkReader, StreamedDataset
from trainer.stream.staged import DeviceAssembler, Staging
from trainer.stream.upload import UploadedAhead, Uploader


class StreamLoader:
    """An iterable over one rank's batches. Follows torchdata's protocol: `state_dict` and `load_state_dict`.

    Args:
        datasets: As opened; all of one caption identity and one latent identity.
        config: Order, prefetch, cache.
        conditioning: Dropout.
        seed: Of the order, the caption draws and the dropout.
        batch_size: Rows of a batch on this rank; the global batch is `batch_size * world_size`.
        rank: This rank.
        world_size: Ranks.
        device: Where batches go.
        dtype: Of their tensors; a GPU run's is bfloat16.
        num_epochs: Epochs after which the iteration ends. Default: never.
        empty: The empty prompt's row, for `conditioning.left_out == "empty"`.
        latents: Whether batches have images. Default: if the datasets have latents.
        holdout: Whether to stream the held-out rows instead of the others.

    Raises:
        IdentityMismatchError: The datasets' encodings differ.
        ConfigError: Options that cannot be used together or with these datasets.
        ContractError: A dataset lacks something, or its groups do not fit together.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        config: StreamConfig,
        conditioning: ConditioningConfig,
        *,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        num_epochs: int | None = None,
        empty: Row | None = None,
        latents: bool | None = None,
        holdout: bool = False,
    ) -> None:
        self.config = config
        self.identity = same_captions(datasets)
        self.latent_identity = same_latents(datasets, wanted=latents)
        self.layout: ContextLayout = context_layout(self.identity, conditioning.t5_tokens)
        self._device = torch.device(device)
        self._dtype = dtype
        self._conditioning = conditioning
        self._empty = empty_prompt(conditioning, empty)
        self._seed = seed
        self._share = Share(batch_size, rank, world_size, config.tail)
        cache = None if config.cache is None else ChunkCache(config.cache, config.cache_bytes)
        self.datasets = [self._open(dataset, cache, holdout=holdout) for dataset in datasets]
        self.order = GlobalOrder(
            [streamed.catalog.rows_per_chunk for streamed in self.datasets],
            config.dataset_weights,
            OrderConfig(seed, config.num_streams, config.block_chunks, config.shuffle),
        )
        self._stop = None if num_epochs is None else num_epochs * self.order.rows_per_epoch
        self.fingerprint = self._fingerprint()
        self.position = 0
        """The stream's state: samples of the global order that have been handed out, on all ranks together."""
        self.waiting_seconds = 0.0
        """Time that the consumer has spent waiting in `next`."""
        self.budget = MemoryBudget(config.memory_bytes)
        self._running: list[Prefetcher[HostBatch] | UploadedAhead] = []

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the current position on; ends an earlier iteration that is still going."""
        batches, running = self._start()
        try:
            while True:
                started = time.perf_counter()
                batch = next(batches, None)
                self.waiting_seconds += time.perf_counter() - started
                if batch is None:
                    return
                self.position = batch.next_position
                yield batch
        finally:
            # Also when the iteration is left early: its threads would go on for ever.
            for stage in running:
                stage.close()

    def host_batches(self) -> Prefetcher[HostBatch]:
        """The batches before their upload, for measurements; the position stays where it is."""
        self.close()
        self._require_memory()
        self.budget = MemoryBudget(self.config.memory_bytes)
        on_device = self._merges_on_device
        stagings: queue.SimpleQueue[Staging] = queue.SimpleQueue()
        pin = self._device.type == "cuda"
        for _ in range(self.config.ready_batches + 2 if on_device else 0):
            stagings.put(Staging(self.layout, self._share.batch_size, pin=pin))
        self._stagings = stagings
        assembler = None if on_device else HostAssembler(self.layout, self._share.batch_size, self._empty)
        maker = BatchMaker(self._seed, self._conditioning.dropout, self.latent_identity, assembler, stagings, pin=pin)
        weights = self.config.caption_weights or (1.0,) * len(self.config.captions)
        reader = ChunkReader(self.datasets, self.order, self._seed, weights)
        plan = planned_batches(self.order, self._share, self.position, self._stop)
        threads = Threads(self.config.num_readers, self.config.num_threads or default_threads())
        prefetcher = Prefetcher(plan, reader, maker, self.budget, self.config.ready_batches, threads)
        self._running.append(prefetcher)
        return prefetcher

    def state_dict(self) -> dict[str, Any]:
        """The stream's state after the last batch that was handed out."""
        return {"position": self.position, "fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state, of any number of ranks and any batch size.

        Raises:
            ContractError: The state is of another stream: other datasets, another seed, other options of the order.
        """
        if state["fingerprint"] != self.fingerprint:
            raise ContractError(
                "stream-changed",
                where="the checkpoint's stream state",
                expected=f"a stream of fingerprint {state['fingerprint'][:16]}...",
                actual=f"{self.fingerprint[:16]}...: datasets, captions, seed or options of the order are others",
                remedy="resume with the datasets and options of the run, or begin a new run; shards that were added"
                " since change the order too",
            )
        self.close()
        self.position = int(state["position"])

    def close(self) -> None:
        """Ends the threads. The loader can be iterated again."""
        while self._running:
            self._running.pop().close()

    @property
    def rows_per_epoch(self) -> int:
        """Samples of an epoch, rows that will turn out not to be valid included."""
        return self.order.rows_per_epoch

    @property
    def _merges_on_device(self) -> bool:
        if self.config.merge == "auto":
            return self._device.type != "cpu"
        return self.config.merge == "device"

    def _start(self) -> tuple[Iterator[Batch], list[Prefetcher[HostBatch] | UploadedAhead]]:
        host = self.host_batches()
        assembler = DeviceAssembler(self.layout, self._share.batch_size, self._device, self._empty)
        uploader = Uploader(self._device, self._dtype, assembler, self._stagings)
        if self._device.type == "cuda":
            uploaded = UploadedAhead(host, uploader)
            self._running.append(uploaded)
            return uploaded, [uploaded, host]
        return map(uploader.upload_and_give_back, host), [host]

    def _open(self, dataset: Dataset, cache: ChunkCache | None, *, holdout: bool) -> StreamedDataset:
        config = self.config
        catalog = Catalog(
            dataset,
            config.captions,
            latents=self.latent_identity is not None,
            allow_incomplete=config.allow_incomplete,
            holdout_rows=config.holdout_rows,
            holdout=holdout,
            seed=0,
        )
        fetcher = ChunkFetcher(
            dataset, attempts=config.read_attempts, timeout_seconds=config.read_timeout_seconds, cache=cache
        )
        return StreamedDataset(dataset, catalog, fetcher)

    def _fingerprint(self) -> str:
        config = self.config
        return digest(
            {
                "order_version": ORDER_VERSION,
                "datasets": [streamed.catalog.fingerprint for streamed in self.datasets],
                "seed": self._seed,
                "captions": list(config.captions),
                "caption_weights": None if config.caption_weights is None else list(config.caption_weights),
                "dataset_weights": None if config.dataset_weights is None else list(config.dataset_weights),
                "num_streams": config.num_streams,
                "block_chunks": config.block_chunks,
                "shuffle": config.shuffle,
            }
        )

    def _require_memory(self) -> None:
        """Refuses a budget that cannot hold the chunks that are mixed at any time."""
        config, world_size = self.config, self._share.world_size
        shared = config.num_streams % world_size == 0
        num_streams = config.num_streams // world_size if shared else config.num_streams
        mixed = num_streams * config.block_chunks
        reader = ChunkReader(self.datasets, self.order, self._seed, (1.0,) * len(config.captions))
        sizes = [streamed.catalog.num_bytes for streamed in self.datasets]
        largest = [reader.estimate_bytes(ChunkId(n, 0, int(size.argmax()))) for n, size in enumerate(sizes)]
        if config.dataset_weights is None:  # one pool of chunks
            needed = max(largest) * min(mixed, sum(map(len, sizes)))
        else:  # each dataset has its own streams
            needed = sum(each * min(mixed, len(size)) for each, size in zip(largest, sizes, strict=True))
        if needed > config.memory_bytes:
            raise ConfigError(
                "stream-memory-too-small",
                where="--stream.memory-bytes",
                expected=f"at least {needed:,} bytes, for the chunks of {num_streams} streams on each rank",
                actual=f"{config.memory_bytes:,}",
                remedy="raise it, or mix fewer chunks: a smaller --stream.num-streams or --stream.block-chunks",
            )


def default_threads() -> int:
    """Threads of one rank: the machine's cores over its ranks, at most 8."""
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // local_ranks))

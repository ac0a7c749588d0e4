"""Batches on the host: chosen rows of decoded chunks, not yet on the training device."""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from schemas.identity import LatentIdentity
from schemas.planes import STORAGE_DTYPES, merge_planes
from trainer.conditioning.assemble import Conditioning, torch_tensor
from trainer.conditioning.dropout import keep_mask
from trainer.stream.decode import LatentChunk, SampleChunk
from trainer.stream.merged import HostAssembler, SourceRow
from trainer.stream.plan import ChunkId, PlannedBatch
from trainer.stream.staged import StagedBatch, Staging


@dataclass(frozen=True)
class HostLatents:
    """Images of one size: as `LatentBatch`, in the storage dtype."""

    rows: npt.NDArray[np.int64]
    latents: torch.Tensor
    original_sizes: npt.NDArray[np.int32]
    crops: npt.NDArray[np.int32]


@dataclass(frozen=True)
class HostBatch:
    """A batch before its upload.

    Attributes:
        plan: Which rows these are.
        keys: [B].
        captions: [B].
        valid: bool [B].
        kept: bool [B, 3].
        conditioning: Merged on the host, or planes to be merged on the device.
        latents: By image size.
        staging: The page-locked memory to give back after the upload, if it was used.
    """

    plan: PlannedBatch
    keys: list[str | None]
    captions: list[str | None]
    valid: npt.NDArray[np.bool_]
    kept: npt.NDArray[np.bool_]
    conditioning: Conditioning | StagedBatch
    latents: tuple[HostLatents, ...]
    staging: Staging | None


class BatchMaker:
    """Makes host batches; safe to use from several threads.

    Args:
        seed: Of the encoder dropout.
        dropout: As `keep_mask`.
        latents: Identity of the stream's images, if it has any.
        assembler: Merges on the host.
        stagings: Page-locked memories to use instead; one more than batches that are ready at a time.
        pin: Whether images are page-locked too.
    """

    def __init__(
        self,
        seed: int,
        dropout: Sequence[float],
        latents: LatentIdentity | None,
        assembler: HostAssembler | None,
        stagings: queue.SimpleQueue[Staging],
        *,
        pin: bool,
    ) -> None:
        self._seed = seed
        self._dropout = dropout
        self._latents = latents
        self._assembler = assembler
        self._stagings = stagings
        self._pin = pin

    def __call__(self, plan: PlannedBatch, chunks: Mapping[ChunkId, SampleChunk]) -> HostBatch:
        """One batch."""
        samples = [
            None if chunk is None else (chunks[chunk], int(row))
            for chunk, row in zip(plan.chunks, plan.rows, strict=True)
        ]
        valid = np.array([sample is not None and _is_valid(*sample) for sample in samples])
        kept = keep_mask(self._seed, plan.positions, self._dropout)
        rows: list[SourceRow | None] = [
            (sample[0].captions, sample[1]) if sample is not None and valid[index] else None
            for index, sample in enumerate(samples)
        ]
        staging = None
        conditioning: Conditioning | StagedBatch
        if self._assembler is not None:
            conditioning = self._assembler.assemble(rows, kept)
        else:
            staging = self._stagings.get()
            conditioning = staging.gather(rows, kept)
        return HostBatch(
            plan,
            [None if sample is None else sample[0].captions.key(sample[1]) for sample in samples],
            [None if sample is None else sample[0].captions.caption(sample[1]) for sample in samples],
            valid,
            kept,
            conditioning,
            self._gather_latents(samples, valid),
            staging,
        )

    def _gather_latents(
        self, samples: Sequence[tuple[SampleChunk, int] | None], valid: npt.NDArray[np.bool_]
    ) -> tuple[HostLatents, ...]:
        if self._latents is None:
            return ()
        by_size: dict[tuple[int, int], list[tuple[int, LatentChunk, int]]] = {}
        for index, sample in enumerate(samples):
            if sample is not None and valid[index]:
                chunk, row = sample[0].latents, sample[1]
                assert chunk is not None
                height, width = chunk.sizes[row].tolist()
                by_size.setdefault((height, width), []).append((index, chunk, row))
        return tuple(self._host_latents(size, rows) for size, rows in sorted(by_size.items()))

    def _host_latents(self, size: tuple[int, int], rows: Sequence[tuple[int, LatentChunk, int]]) -> HostLatents:
        assert self._latents is not None
        factor, dtype = self._latents.downscale_factor, self._latents.storage_dtype
        shape = (len(rows), self._latents.num_channels, size[0] // factor, size[1] // factor)
        out = np.empty(shape, STORAGE_DTYPES[dtype])
        for place, (_, chunk, row) in enumerate(rows):
            out[place] = merge_planes(chunk.latents.row(row), dtype).reshape(shape[1:])
        latents = _as_tensor(out, dtype)
        return HostLatents(
            np.array([index for index, _, _ in rows], np.int64),
            latents.pin_memory() if self._pin else latents,
            np.stack([chunk.original_sizes[row] for _, chunk, row in rows]),
            np.stack([chunk.crops[row] for _, chunk, row in rows]),
        )


def _is_valid(chunk: SampleChunk, row: int) -> bool:
    return bool(chunk.captions.valid[row]) and (chunk.latents is None or bool(chunk.latents.valid[row]))


def _as_tensor(array: npt.NDArray[np.generic], storage_dtype: str) -> torch.Tensor:
    return torch.from_numpy(array) if storage_dtype == "uint8" else torch_tensor(array, storage_dtype)

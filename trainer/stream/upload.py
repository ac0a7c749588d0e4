"""Uploads host batches to the training device while a step is running.

On a GPU a thread of its own uploads and merges on a side stream and waits until a batch is ready, so that the step need
not. On the CPU there is nothing to upload and the batch is handed on.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import torch

from trainer.conditioning.assemble import Conditioning
from trainer.stream.batch import Batch, LatentBatch
from trainer.stream.host_batch import HostBatch, HostLatents
from trainer.stream.staged import DeviceAssembler, StagedBatch, Staging

_AHEAD = 1


class Uploader:
    """Makes `Batch` of `HostBatch`.

    Args:
        device: Where the model is.
        dtype: Of the conditioning and the latents.
        assembler: Merges planes that come unmerged.
        stagings: Where page-locked memory is given back.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        assembler: DeviceAssembler,
        stagings: queue.SimpleQueue[Staging],
    ) -> None:
        self._device = device
        self._dtype = dtype
        self._assembler = assembler
        self._stagings = stagings

    def upload(self, host: HostBatch) -> Batch:
        """One batch, on the current stream; returns before the copies have ended."""
        found = host.conditioning
        if isinstance(found, StagedBatch):
            found = self._assembler.assemble(found)
        conditioning = Conditioning(self._move(found.prompt_embeds), self._move(found.pooled_prompt_embeds))
        plan = host.plan
        return Batch(
            position=plan.position,
            next_position=plan.next_position,
            positions=plan.positions,
            datasets=plan.datasets,
            keys=host.keys,
            captions=host.captions,
            valid=host.valid,
            kept=host.kept,
            prompt_embeds=conditioning.prompt_embeds,
            pooled_prompt_embeds=conditioning.pooled_prompt_embeds,
            latents=tuple(self._latents(latents) for latents in host.latents),
        )

    def give_back(self, host: HostBatch) -> None:
        """Lets the batch's page-locked memory be used again; its copies must have ended."""
        if host.staging is not None:
            self._stagings.put(host.staging)

    def upload_and_give_back(self, host: HostBatch) -> Batch:
        """For a device whose copies end before the call does."""
        batch = self.upload(host)
        self.give_back(host)
        return batch

    def _move(self, tensor: torch.Tensor) -> torch.Tensor:
        # First across, then converted: the stored dtype is the smaller one.
        return tensor.to(self._device, non_blocking=True).to(self._dtype)

    def _latents(self, images: HostLatents) -> LatentBatch:
        latents = images.latents.to(self._device, non_blocking=True)
        if latents.dtype == torch.uint8:
            # Rounded once, at the end: bfloat16 has quotients up to 2 only to half a level.
            latents = latents.float() / 127.5 - 1
        return LatentBatch(images.rows, latents.to(self._dtype), images.original_sizes, images.crops)


class UploadedAhead:
    """An iterator over batches on a GPU, one ahead of the consumer.

    Args:
        batches: On the host.
        uploader: Of the GPU.
    """

    def __init__(self, batches: Iterator[HostBatch], uploader: Uploader) -> None:
        self._batches = batches
        self._uploader = uploader
        self._out: queue.Queue[Batch | BaseException | None] = queue.Queue(_AHEAD)
        self._stopped = threading.Event()
        self._done = False
        self._thread = threading.Thread(target=self._run, name="stream-upload", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        found = None if self._done else self._out.get()
        if found is None or isinstance(found, BaseException):
            self._done = True
            raise StopIteration if found is None else found
        # The uploading thread has waited for it, so the current stream need not.
        stream = torch.cuda.current_stream(self._uploader._device)
        for tensor in _tensors(found):
            # Memory of the side stream: it must not be used anew there while this stream still reads it.
            tensor.record_stream(stream)
        return found

    def close(self) -> None:
        """Ends the thread."""
        self._stopped.set()

    def _run(self) -> None:
        try:
            device = self._uploader._device
            stream = torch.cuda.Stream(device)
            with torch.cuda.device(device), torch.cuda.stream(stream):
                for host in self._batches:
                    batch = self._uploader.upload(host)
                    stream.synchronize()
                    self._uploader.give_back(host)
                    if not self._put(batch):
                        return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Batch | BaseException | None) -> bool:
        while not self._stopped.is_set():
            try:
                self._out.put(item, timeout=1.0)
            except queue.Full:
                continue
            return True
        return False


def _tensors(batch: Batch) -> list[torch.Tensor]:
    return [batch.prompt_embeds, batch.pooled_prompt_embeds, *(images.latents for images in batch.latents)]

"""Runs the autoencoder over windows of cropped images: batches by size, copies overlapped with compute.

On a GPU a batch's pixels go up in one stream and its latents come down in another, both by way of page-locked memory,
while the batch before it is computed. The thread that launches them waits for the oldest batch in flight only.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from pipeline.counters import Counters
from pipeline.latents.buckets import Size
from pipeline.latents.images import CroppedImage
from pipeline.transfer import TORCH_DTYPES, numpy_array, page_locked, side_stream
from schemas.identity import LatentStorageDtype

if TYPE_CHECKING:
    # Pixels need no diffusers.
    from pipeline.latents.autoencoder import LatentEncoder

_BATCHES_IN_FLIGHT = 2
"""On a GPU, the one that is computed included. More only take memory: a batch is computed for tens of milliseconds."""


@dataclass(frozen=True)
class ImageWindow:
    """Consecutive rows of a shard, decoded.

    Attributes:
        start: Index of the first row in the shard.
        keys: Of the samples.
        images: Their images; None where there is none.
    """

    start: int
    keys: Sequence[str]
    images: Sequence[CroppedImage | None]


@dataclass(frozen=True)
class EncodedImage:
    """One image's row of the group `latents`.

    Attributes:
        original_size: Height and width, pixels.
        crop: Top and left edge in the resized image, pixels.
        size: Height and width of the bucket, pixels.
        latents: [C, height / f, width / f] in the storage dtype.
    """

    original_size: Size
    crop: Size
    size: Size
    latents: npt.NDArray[np.generic]


@dataclass
class EncodedImageWindow:
    """Consecutive rows of a shard, encoded.

    Attributes:
        start: Index of the first row in the shard.
        keys: Of the samples.
        rows: What is stored; None where there is no image, and where the encoder's output is not finite.
        not_finite: Indices into `rows` of the latter.
        counters: Seconds.
    """

    start: int
    keys: Sequence[str]
    rows: list[EncodedImage | None]
    not_finite: list[int] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)


@dataclass
class _Flight:
    """A window of which `num_left` images are not encoded yet."""

    out: EncodedImageWindow
    num_left: int


@dataclass(frozen=True)
class _Latents:
    """A batch on the host.

    Attributes:
        values: [B, C, h, w] in the storage dtype.
        finite: bool [B].
        device_seconds: Of the encoder.
    """

    values: torch.Tensor
    finite: torch.Tensor
    device_seconds: float


@dataclass(frozen=True)
class _Batch:
    """Images of one size on their way.

    Attributes:
        flight: Their window.
        rows: [B] indices into the window.
        images: Of these rows, without their pixels: original size and crop.
        size: Height and width, pixels.
        wait: Waits for the outputs and gives them.
    """

    flight: _Flight
    rows: Sequence[int]
    images: Sequence[tuple[Size, Size]]
    size: Size
    wait: Callable[[], _Latents]


class LatentEngine:
    """Encodes windows of images.

    Args:
        encoder: The autoencoder's; None stores the pixels themselves.
        storage_dtype: Of what is stored.
        batch_size: Images of a batch; None for as many as `batch_pixels` allows.
        batch_pixels: Pixels of a batch, at least one image.
    """

    def __init__(
        self,
        encoder: LatentEncoder | None,
        storage_dtype: LatentStorageDtype,
        batch_size: int | None,
        batch_pixels: int,
    ) -> None:
        self._encoder = encoder
        self._storage_dtype = storage_dtype
        self._batch_size = batch_size
        self._batch_pixels = batch_pixels
        self._copies = _Copies(encoder.device) if encoder is not None and encoder.device.type == "cuda" else None

    def encode(self, windows: Iterable[ImageWindow]) -> Iterator[EncodedImageWindow]:
        """Encodes windows in order.

        What it gives depends on the shard's images alone, so a rerun is equal.
        """
        flights, batches = deque[_Flight](), deque[_Batch]()
        most = 0 if self._copies is None else _BATCHES_IN_FLIGHT
        for window in windows:
            flights.append(self._open(window))
            for size, rows in self._batches(window.images):
                batches.append(self._launch(flights[-1], size, rows, window.images))
                while len(batches) > most:
                    self._finish(batches.popleft())
            # The batches in flight have pixels of their own.
            del window
            while flights and not flights[0].num_left:
                yield flights.popleft().out
        while batches:
            self._finish(batches.popleft())
        for flight in flights:
            yield flight.out

    def _open(self, window: ImageWindow) -> _Flight:
        out = EncodedImageWindow(window.start, window.keys, [None] * len(window.images))
        if self._encoder is not None:
            return _Flight(out, sum(image is not None for image in window.images))
        for row, image in enumerate(window.images):
            if image is not None:
                out.rows[row] = EncodedImage(image.original_size, image.crop, image.size, image.pixels)
        return _Flight(out, 0)

    def _batches(self, images: Sequence[CroppedImage | None]) -> Iterator[tuple[Size, list[int]]]:
        """Rows that are encoded together, with the size that their images have."""
        if self._encoder is None:
            return
        by_size: dict[Size, list[int]] = {}
        for row, image in enumerate(images):
            if image is not None:
                by_size.setdefault(image.size, []).append(row)
        for size, rows in by_size.items():
            start = 0
            for count in batch_sizes(len(rows), self._batch_size or max(1, self._batch_pixels // (size[0] * size[1]))):
                yield size, rows[start : start + count]
                start += count

    def _launch(
        self, flight: _Flight, size: Size, rows: Sequence[int], images: Sequence[CroppedImage | None]
    ) -> _Batch:
        started = time.perf_counter()
        chosen = [image for row in rows if (image := images[row]) is not None]
        pixels = [image.pixels for image in chosen]
        wait = self._compute(pixels) if self._copies is None else self._copies.launch(pixels, self._stored)
        flight.out.counters += Counters(encode_seconds=time.perf_counter() - started)
        return _Batch(flight, rows, [(image.original_size, image.crop) for image in chosen], size, wait)

    def _compute(self, pixels: Sequence[npt.NDArray[np.uint8]]) -> Callable[[], _Latents]:
        started = time.perf_counter()
        stored = self._stored(torch.from_numpy(np.stack(pixels)))
        found = _Latents(*stored, device_seconds=time.perf_counter() - started)
        return lambda: found

    def _stored(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [B, C, h, w] in the storage dtype of images uint8 [B, 3, H, W], and which are finite, bool [B]."""
        assert self._encoder is not None
        latents = self._encoder.encode(images)
        stored = latents.to(TORCH_DTYPES[self._storage_dtype], memory_format=torch.contiguous_format)
        # After the cast: a value that float16 cannot hold is as lost as a NaN.
        return stored, torch.isfinite(stored).flatten(1).all(dim=1)

    def _finish(self, batch: _Batch) -> None:
        started = time.perf_counter()
        window, found = batch.flight.out, batch.wait()
        finite = found.finite.numpy()
        for index, (row, (original_size, crop)) in enumerate(zip(batch.rows, batch.images, strict=True)):
            if finite[index]:
                # A copy, so that the batch need not stay in memory for one of its rows.
                latents = numpy_array(found.values[index]).copy()
                window.rows[row] = EncodedImage(original_size, crop, batch.size, latents)
            else:
                window.not_finite.append(row)
        batch.flight.num_left -= len(batch.rows)
        seconds = time.perf_counter() - started
        window.counters += Counters(encode_seconds=seconds, device_seconds=found.device_seconds)


def batch_sizes(num_images: int, largest: int) -> list[int]:
    """Sizes of the batches that `num_images` images of one shape are encoded in: full ones, then powers of two.

    cuDNN makes a plan for each shape of a batch. So there are at most `largest.bit_length() + 1` of them for each size
    of image, and nothing is computed that is thrown away.
    """
    sizes, left = [largest] * (num_images // largest), num_images % largest
    while left:
        sizes.append(1 << (left.bit_length() - 1))
        left -= sizes[-1]
    return sizes


class _Copies:
    """Launches batches on a GPU: pixels up, compute, latents down, each in a stream of its own.

    One stream for both directions would not do: the next pixels would wait behind latents that are not computed yet.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._up = torch.cuda.Stream(device)
        self._down = side_stream(device)

    def launch(
        self,
        pixels: Sequence[npt.NDArray[np.uint8]],
        function: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    ) -> Callable[[], _Latents]:
        """Queues a batch; does not wait for the device.

        Args:
            pixels: Images uint8 [3, H, W], all of one size.
            function: From images on the device to latents and their finiteness there.

        Returns:
            Waits for the batch and gives it.

        Raises:
            PageLockedMemoryError: There is not enough of it.
        """
        # Before another stream becomes the current one.
        compute = torch.cuda.current_stream(self._device)
        # torch does not give this memory to the next batch before the copy is over.
        staged = page_locked(len(pixels) * pixels[0].size).view(len(pixels), *pixels[0].shape)
        np.stack(pixels, out=staged.numpy())
        with torch.cuda.stream(self._up):
            images = staged.to(self._device, non_blocking=True)
        compute.wait_stream(self._up)
        # Made in one stream and read in another: its memory must not go to the next batch before that is over.
        images.record_stream(compute)
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record(compute)
        outputs = function(images)
        ended.record(compute)
        self._down.wait_stream(compute)
        with torch.cuda.stream(self._down):
            values, finite = (_to_host(output) for output in outputs)
            done = torch.cuda.Event()
            done.record(self._down)
        for output in outputs:
            output.record_stream(self._down)

        def wait() -> _Latents:
            done.synchronize()
            return _Latents(values, finite, started.elapsed_time(ended) / 1e3)

        return wait


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Launches the copy of a tensor into page-locked memory."""
    there = page_locked(tensor.numel() * tensor.element_size()).view(tensor.dtype).view(tensor.shape)
    return there.copy_(tensor, non_blocking=True)

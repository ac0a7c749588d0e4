"""Makes the group `latents` of a shard: reads and decodes image files, encodes them, packs chunks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.ahead import Queues, ahead
from pipeline.counters import Counters
from pipeline.device_thread import DeviceThread
from pipeline.engine_settings import EngineSettings
from pipeline.group_encoder import Samples
from pipeline.latents.buckets import Size
from pipeline.latents.engine import EncodedImage, EncodedImageWindow, ImageWindow, LatentEngine
from pipeline.latents.images import CroppedImage, ImageReader
from pipeline.latents.options import LatentOptions
from pipeline.latents.pixel_budget import PixelBudget
from pipeline.sources import TarScan
from pipeline.sources.caption_text import Fault
from schemas.identity import LatentIdentity, require_same
from schemas.latent_manifest import LatentManifest
from schemas.latent_schema import LatentRows, latent_batch, latent_schema
from schemas.ledger import LatentStats
from schemas.manifest import Layout
from schemas.parts import LazyBatch
from schemas.rejects import Reject

if TYPE_CHECKING:
    # Pixels need no diffusers.
    from pipeline.latents.autoencoder import LatentEncoder

_READ_BYTES = 32 * 1024**2
"""Image files that are read at a time; a single one may be larger."""
_MAX_WINDOW_ROWS = 8192


class LatentGroups:
    """Encodes the group `latents`.

    Args:
        manifest: The dataset's, as stored.
        identity: Of what was loaded here.
        encoder: The autoencoder's; None for pixels.
        options: Limits and the batch size.
        settings: Budgets.
        where: The manifest's place and this machine, for errors.
        queues: Where people can see how full the queues between stages are.
        thread: Where the device is used, for one shard after the other; default: one of its own.

    Raises:
        IdentityMismatchError: What was loaded here is not the manifest's, such as other weights on this node.
    """

    def __init__(
        self,
        manifest: LatentManifest,
        identity: LatentIdentity,
        encoder: LatentEncoder | None,
        options: LatentOptions,
        settings: EngineSettings,
        where: str,
        queues: Queues | None = None,
        thread: DeviceThread | None = None,
    ) -> None:
        require_same(manifest.latents, identity, where=where)
        assert (encoder is None) == (identity.kind == "pixels")
        self.manifest = manifest
        self.settings = settings
        self.queues = queues
        self.thread = thread or DeviceThread()
        self.reader = ImageReader(identity.buckets, options.images, PixelBudget(settings.decoding_pixels))
        storage_dtype = manifest.latents.storage_dtype
        self.engine = LatentEngine(encoder, storage_dtype, options.vae.batch_size, settings.batch_pixels)

    @property
    def identity_sha256(self) -> str:
        """The manifest's."""
        return self.manifest.identity_sha256

    @property
    def layout(self) -> Layout:
        """The manifest's."""
        return self.manifest.layout

    def schema(self, group: str, shard: str) -> pa.Schema:  # noqa: ARG002 there is one group of this kind
        """Of the group's parts."""
        return latent_schema(self.manifest, shard)

    def begin(self, samples: Samples, group: str) -> LatentPass:
        """Encodes the images of a shard, as its batches are taken."""
        assert isinstance(samples, TarScan), "only tars have images"
        return LatentPass(self, samples, group)

    def window_rows(self) -> int:
        """Rows of a window: whole chunks, at least one."""
        chunk_rows = self.layout.chunk_rows
        row_bytes = 3 * self.manifest.latents.resolution**2
        rows = min(self.settings.image_window_bytes // row_bytes, _MAX_WINDOW_ROWS)
        return max(1, rows // chunk_rows) * chunk_rows


class LatentPass:
    """The images of one shard."""

    def __init__(self, groups: LatentGroups, scan: TarScan, group: str) -> None:
        self.num_encoded = 0
        self.rejects: list[Reject] = []
        self._groups = groups
        self._scan = scan
        self._group = group
        self._rejected: dict[int, Reject] = {}
        self._num_images: dict[str, int] = {}
        self._raw_bytes = 0

    def batches(self, schema: pa.Schema, count: Callable[[Counters], None]) -> Generator[LazyBatch, None, None]:
        """The group's chunks in row order."""
        step, queues, engine = self._groups.layout.chunk_rows, self._groups.queues, self._groups.engine
        with (
            closing(ahead(self._decoded(), 2, "images", queues)) as windows,
            closing(ahead(engine.encode(windows), 2, "latents", queues, self._groups.thread)) as encoded,
        ):
            for window in encoded:
                count(window.counters + self._add(window))
                for start in range(0, len(window.keys), step):
                    rows = window.rows[start : start + step]
                    make = partial(self._chunk, schema, window.keys[start : start + step], rows)
                    yield LazyBatch(sum(row.latents.nbytes for row in rows if row is not None), make)
        # By row: which thread came first differs from run to run.
        self.rejects = [self._rejected[row] for row in sorted(self._rejected)]

    def stats(self) -> dict[str, LatentStats]:
        """Images by size, and bytes."""
        return {self._group: LatentStats(num_images=dict(sorted(self._num_images.items())), raw_bytes=self._raw_bytes)}

    def _decoded(self) -> Iterator[ImageWindow]:
        rows = self._groups.window_rows()
        num_rows = len(self._scan.keys)
        with ThreadPoolExecutor(self._groups.settings.num_decoders, "decode") as decoders:
            for start in range(0, num_rows, rows):
                stop = min(start + rows, num_rows)
                images: list[CroppedImage | None] = []
                with closing(ahead(self._files(start, stop), 2, "image files")) as files:
                    for some in files:
                        images += self._checked(start + len(images), decoders.map(self._read, some))
                yield ImageWindow(start, self._scan.keys[start:stop], images)

    def _files(self, start: int, stop: int) -> Iterator[list[bytes | None]]:
        """The image files of a window, a bounded number of bytes at a time."""
        while start < stop:
            end, num_bytes = start + 1, self._scan.image_bytes(start)
            while end < stop and num_bytes + self._scan.image_bytes(end) <= _READ_BYTES:
                num_bytes += self._scan.image_bytes(end)
                end += 1
            yield self._scan.images(start, end)
            start = end

    def _read(self, data: bytes | None) -> CroppedImage | Fault | None:
        return None if data is None else self._groups.reader.read(data)

    def _checked(self, row: int, found: Iterable[CroppedImage | Fault | None]) -> Iterator[CroppedImage | None]:
        for index, image in enumerate(found, start=row):
            if isinstance(image, Fault):
                self._rejected[index] = self._scan.image_reject(index, image)
                yield None
            else:
                yield image

    def _add(self, window: EncodedImageWindow) -> Counters:
        """Takes a window into the sums and the rejects."""
        dtype = self._groups.manifest.latents.storage_dtype
        fault = Fault("output-not-finite", f"the autoencoder's output is NaN or infinite as {dtype}")
        for row in window.not_finite:
            self._rejected[window.start + row] = self._scan.image_reject(window.start + row, fault)
        images = [row for row in window.rows if row is not None]
        for image in images:
            name = f"{image.size[0]}x{image.size[1]}"
            self._num_images[name] = self._num_images.get(name, 0) + 1
        num_bytes = sum(image.latents.nbytes for image in images)
        self.num_encoded += len(images)
        self._raw_bytes += num_bytes
        return Counters(num_images=len(images), raw_bytes=num_bytes)

    def _chunk(self, schema: pa.Schema, keys: Sequence[str], rows: Sequence[EncodedImage | None]) -> pa.RecordBatch:
        images = [row for row in rows if row is not None]
        columns = LatentRows(
            original_size=_pairs([image.original_size for image in images]),
            crop=_pairs([image.crop for image in images]),
            size=_pairs([image.size for image in images]),
            latents=[image.latents for image in images],
        )
        encoded = np.array([row is not None for row in rows])
        return latent_batch(schema, self._groups.manifest.latents, keys, encoded, columns)


def _pairs(sizes: Sequence[Size]) -> npt.NDArray[np.integer]:
    return np.array(sizes, np.int32).reshape(-1, 2)

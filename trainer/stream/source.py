"""The chunks of all datasets of a run, as the prefetcher asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from schemas.dataset import Dataset
from schemas.ledger import part_path
from trainer.stream.catalog import Catalog, ChunkRef
from trainer.stream.decode import SampleChunk, decoded_captions, decoded_latents, held_bytes
from trainer.stream.fetch import ChunkFetcher
from trainer.stream.mixture import GlobalOrder, draw_field
from trainer.stream.plan import ChunkId
from trainer.stream.shapes import require_caption_shapes, require_latent_shapes


@dataclass(frozen=True)
class StreamedDataset:
    """One dataset of the run.

    Attributes:
        dataset: As opened.
        catalog: Its chunks that are in the stream.
        fetcher: Reads them.
    """

    dataset: Dataset
    catalog: Catalog
    fetcher: ChunkFetcher


class ChunkReader:
    """A `ChunkSource` over datasets.

    Args:
        datasets: In the order of the mixture.
        order: Of all samples.
        seed: Of the caption draws.
        caption_weights: One a caption group.
    """

    def __init__(
        self, datasets: Sequence[StreamedDataset], order: GlobalOrder, seed: int, caption_weights: Sequence[float]
    ) -> None:
        self._datasets = datasets
        self._order = order
        self._seed = seed
        self._caption_weights = caption_weights

    def estimate_bytes(self, chunk: ChunkId) -> int:
        """Compressed and decoded, since both are there for a while."""
        stored = int(self._datasets[chunk.dataset].catalog.num_bytes[chunk.chunk])
        return stored + decoded_bytes(stored)

    def last_position(self, chunk: ChunkId) -> int:
        """A position at or after the chunk's last row."""
        return int(self._order.last_position(chunk.dataset, chunk.epoch, np.array([chunk.chunk]))[0])

    def read(self, chunk: ChunkId) -> list[tuple[ChunkRef, pa.Buffer]]:
        """The chunk's stored bytes: its captions, of the group drawn for this epoch, and its images.

        Raises:
            EncodeOnceError: They cannot be read, or stay damaged.
        """
        streamed = self._datasets[chunk.dataset]
        group = draw_field(self._seed, chunk.dataset, chunk.epoch, np.array([chunk.chunk]), self._caption_weights)
        refs = streamed.catalog.refs(chunk.chunk, int(group[0]))
        return [(ref, streamed.fetcher.fetch(ref)) for ref in refs]

    def decode(self, chunk: ChunkId, data: object) -> SampleChunk:
        """Decodes what `read` fetched.

        Raises:
            EncodeOnceError: It does not follow SPEC.md.
        """
        assert isinstance(data, list)
        dataset = self._datasets[chunk.dataset].dataset
        batches = [
            dataset.decode_chunk(ref.group, ref.shard, ref.part, ref.chunk, found, checked=True) for ref, found in data
        ]
        num_bytes = sum(held_bytes(batch, stored) for batch, (_, stored) in zip(batches, data, strict=True))
        latents = decoded_latents(batches[1]) if len(batches) > 1 else None
        found = SampleChunk(decoded_captions(batches[0]), latents, num_bytes)
        names = [
            f"{dataset.store.locate(part_path(ref.shard, ref.part.name))} at byte {ref.chunk.offset}" for ref, _ in data
        ]
        require_caption_shapes(found.captions, dataset.manifest.captions, where=names[0])
        if found.latents is not None:
            assert dataset.latents is not None
            require_latent_shapes(found.latents, dataset.latents.latents, where=names[1])
        return found


def decoded_bytes(stored_bytes: int) -> int:
    """About what a chunk takes in memory: planes of real hidden states compress to 0.68, padding to less."""
    return 2 * stored_bytes

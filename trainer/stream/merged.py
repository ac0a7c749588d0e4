"""Batches assembled on the host: stored planes straight into the context, each byte moved once.

The memory of batches is used again as soon as nobody holds their tensors any more: fresh memory would cost a page fault
for every 4 KB of a context of 1.3 MB a sample, and most of a context that is used again is zero already.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from schemas.identity import ENCODER_NAMES
from schemas.planes import STORAGE_DTYPES, merge_planes
from trainer.conditioning.assemble import TORCH_DTYPES, Conditioning
from trainer.conditioning.layout import ContextLayout, Slot
from trainer.stream.decode import CaptionChunk
from trainer.stream.merge_kernel import merge_two_planes

SourceRow = tuple[CaptionChunk, int]
"""A decoded chunk and a row of it."""

EmptyPrompt = Mapping[str, tuple[npt.NDArray[np.generic], npt.NDArray[np.generic] | None]]
"""By encoder, what it made of the empty prompt: hidden [T, D] and pooled [P], in the storage dtype."""


class _Owner(np.ndarray):
    """Memory on loan: NumPy's own arrays cannot be watched for their end."""


@dataclass(frozen=True)
class _Buffer:
    """Memory of one batch.

    Attributes:
        flat: Context, then pooled vectors; integers of the storage dtype's size.
        context: [B, T, D] of it.
        pooled: [B, P] of it.
        written: int64 [B, 3], tokens of each encoder's slot that are not zero.
    """

    flat: npt.NDArray[np.signedinteger]
    context: npt.NDArray[np.unsignedinteger]
    pooled: npt.NDArray[np.unsignedinteger]
    written: npt.NDArray[np.int64]


class HostAssembler:
    """Assembles batches of one shape. Safe to use from several threads.

    Args:
        layout: Of the dataset's encoders.
        batch_size: Rows of a batch.
        empty: What stands in for an encoder that is left out; None: zeros.
    """

    def __init__(self, layout: ContextLayout, batch_size: int, empty: EmptyPrompt | None) -> None:
        self._layout = layout
        self._batch_size = batch_size
        self._empty = empty
        self._integers = np.dtype(f"u{STORAGE_DTYPES[layout.storage_dtype].itemsize}")
        self._free: deque[_Buffer] = deque()

    def assemble(self, rows: Sequence[SourceRow | None], kept: npt.NDArray[np.bool_]) -> Conditioning:
        """One batch in the storage dtype.

        Args:
            rows: [B]; None for a row that is not valid, which stays zero.
            kept: bool [B, 3].
        """
        buffer = self._take()
        for index, row in enumerate(rows):
            for encoder, name in enumerate(ENCODER_NAMES):
                slot = self._layout.slots[name]
                self._put(buffer, index, encoder, name, slot, row, bool(kept[index, encoder]))
        return self._lend(buffer)

    def _put(
        self, buffer: _Buffer, index: int, encoder: int, name: str, slot: Slot, row: SourceRow | None, keep: bool
    ) -> None:
        place = buffer.context[index, slot.token : slot.token + slot.num_tokens]
        place = place[:, slot.channel : slot.channel + slot.hidden_size]
        pooled = buffer.pooled[index, slot.pooled_channel : slot.pooled_channel + slot.pooled_size]
        before, num_tokens = buffer.written[index, encoder], 0
        if row is not None and keep:
            chunk, number = row
            planes, width = chunk.hidden[name].row(number), slot.hidden_size
            num_tokens = min(planes[0].size // width, slot.num_tokens)
            _merge(planes, buffer.context[index], slot.token, slot.channel, num_tokens, width)
            if slot.pooled_size:
                stored = chunk.pooled[name].row(number)
                _merge(stored, buffer.pooled, index, slot.pooled_channel, 1, slot.pooled_size)
        elif row is not None and self._empty is not None:
            hidden, stored_pooled = self._empty[name]
            num_tokens = min(len(hidden), slot.num_tokens)
            place[:num_tokens] = hidden[:num_tokens].view(self._integers)
            if stored_pooled is not None:
                pooled[:] = stored_pooled.view(self._integers)
        elif before:
            pooled[:] = 0
        if num_tokens < before:
            place[num_tokens:before] = 0
        buffer.written[index, encoder] = num_tokens

    def _take(self) -> _Buffer:
        try:
            return self._free.pop()
        except IndexError:
            return self._allocate()

    def _allocate(self) -> _Buffer:
        layout = self._layout
        context_shape = (self._batch_size, layout.num_tokens, layout.width)
        size = int(np.prod(context_shape))
        flat = np.zeros(size + self._batch_size * layout.pooled_width, f"i{self._integers.itemsize}")
        bits = flat.view(self._integers)
        written = np.zeros((self._batch_size, len(ENCODER_NAMES)), np.int64)
        return _Buffer(flat, bits[:size].reshape(context_shape), bits[size:].reshape(self._batch_size, -1), written)

    def _lend(self, buffer: _Buffer) -> Conditioning:
        owner = buffer.flat.view(_Owner)
        weakref.finalize(owner, self._free.append, buffer).atexit = False
        # torch keeps `owner` until the last tensor over this memory is gone.
        flat = torch.from_numpy(owner).view(TORCH_DTYPES[self._layout.storage_dtype])
        size = buffer.context.size
        return Conditioning(flat[:size].view(buffer.context.shape), flat[size:].view(buffer.pooled.shape))


def _merge(
    planes: Sequence[npt.NDArray[np.uint8]],
    out: npt.NDArray[np.unsignedinteger],
    row: int,
    column: int,
    num_rows: int,
    width: int,
) -> None:
    """Puts a block of `out`, which is contiguous, together from its planes, each flat and at least as long."""
    if len(planes) == 2:
        merge_two_planes(planes[0], planes[1], out, row, column, num_rows, width)
        return
    merged = merge_planes([plane[: num_rows * width] for plane in planes], "float32").view(out.dtype)
    out[row : row + num_rows, column : column + width] = merged.reshape(num_rows, width)

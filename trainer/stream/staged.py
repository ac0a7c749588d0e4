"""Batches assembled on the device: planes are gathered, uploaded as they are, and merged there.

Only the tokens of encoders that are kept travel, half the bytes of the assembled context and less; the host copies
each of them once, into page-locked memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from schemas.identity import ENCODER_NAMES
from schemas.planes import plane_names
from trainer.conditioning.assemble import TORCH_DTYPES, Conditioning, torch_tensor
from trainer.conditioning.layout import ContextLayout
from trainer.stream.copy_kernel import copy_pieces
from trainer.stream.decode import PlaneColumn
from trainer.stream.merged import EmptyPrompt, SourceRow


@dataclass(frozen=True)
class StagedTensor:
    """Stored rows of one kind, one after the other.

    Attributes:
        planes: uint8 [plane][n, width].
        places: int64 [n], to which row of the flattened target each belongs.
    """

    planes: tuple[torch.Tensor, ...]
    places: torch.Tensor


@dataclass(frozen=True)
class StagedBatch:
    """What is uploaded for one batch.

    Attributes:
        hidden: By encoder; places are `row * T + token`.
        pooled: By encoder; places are rows.
        left_out: By encoder, int64 [n]: valid rows without it.
    """

    hidden: Mapping[str, StagedTensor]
    pooled: Mapping[str, StagedTensor]
    left_out: Mapping[str, torch.Tensor]


class Staging:
    """Page-locked memory for one batch, used again and again.

    Args:
        layout: Of the dataset's encoders.
        batch_size: Rows of a batch.
        pin: Whether to lock the pages, for uploads that overlap with computing.
    """

    def __init__(self, layout: ContextLayout, batch_size: int, *, pin: bool) -> None:
        self._layout = layout
        num_planes = len(plane_names(layout.storage_dtype))

        def planes(num_rows: int, width: int) -> list[torch.Tensor]:
            return [torch.empty((num_rows, width), dtype=torch.uint8, pin_memory=pin) for _ in range(num_planes)]

        self._hidden: dict[str, list[torch.Tensor]] = {}
        self._pooled: dict[str, list[torch.Tensor]] = {}
        for name, slot in layout.slots.items():
            self._hidden[name] = planes(batch_size * slot.num_tokens, slot.hidden_size)
            if slot.pooled_size:
                self._pooled[name] = planes(batch_size, slot.pooled_size)

    def gather(self, rows: Sequence[SourceRow | None], kept: npt.NDArray[np.bool_]) -> StagedBatch:
        """Copies a batch's planes in.

        Args:
            rows: [B]; None for a row that is not valid.
            kept: bool [B, 3].

        Returns:
            Views of this memory: valid until the next call.
        """
        hidden: dict[str, StagedTensor] = {}
        pooled: dict[str, StagedTensor] = {}
        left_out: dict[str, torch.Tensor] = {}
        for encoder, name in enumerate(ENCODER_NAMES):
            there = [(index, row) for index, row in enumerate(rows) if row is not None]
            chosen = [(index, row) for index, row in there if kept[index, encoder]]
            hidden[name] = self._gather_hidden(name, chosen)
            if name in self._pooled:
                pooled[name] = self._gather_pooled(name, chosen)
            left_out[name] = torch.tensor([i for i, _ in there if not kept[i, encoder]], dtype=torch.int64)
        return StagedBatch(hidden, pooled, left_out)

    def _gather_hidden(self, name: str, rows: Sequence[tuple[int, SourceRow]]) -> StagedTensor:
        slot, width = self._layout.slots[name], self._layout.slots[name].hidden_size
        pieces = _Pieces([(chunk.hidden[name], number) for _, (chunk, number) in rows])
        num_tokens = np.minimum(pieces.sizes // width, slot.num_tokens)
        filled = int(num_tokens.sum())
        pieces.copy(self._hidden[name], num_tokens * width)
        # Row by row: its first token's place, and as many after it as it has.
        first = np.array([index for index, _ in rows], np.int64) * self._layout.num_tokens + slot.token
        before = np.cumsum(num_tokens) - num_tokens
        places = np.arange(filled) + np.repeat(first - before, num_tokens)
        return StagedTensor(tuple(plane[:filled] for plane in self._hidden[name]), torch.from_numpy(places))

    def _gather_pooled(self, name: str, rows: Sequence[tuple[int, SourceRow]]) -> StagedTensor:
        pieces = _Pieces([(chunk.pooled[name], number) for _, (chunk, number) in rows])
        pieces.copy(self._pooled[name], np.full(len(rows), self._layout.slots[name].pooled_size))
        indices = torch.tensor([index for index, _ in rows], dtype=torch.int64)
        return StagedTensor(tuple(plane[: len(rows)] for plane in self._pooled[name]), indices)


class _Pieces:
    """Rows of several chunks' columns; `sizes` are the bytes of each, in every plane."""

    def __init__(self, rows: Sequence[tuple[PlaneColumn, int]]) -> None:
        self._columns = [column for column, _ in rows]
        self._starts = np.array([column.offsets[0][number] for column, number in rows], np.int64)
        self.sizes = np.array([column.offsets[0][number + 1] for column, number in rows], np.int64) - self._starts

    def copy(self, planes: Sequence[torch.Tensor], sizes: npt.NDArray[np.int64]) -> None:
        """The first `sizes` bytes of each row, one after the other, into each plane."""
        for index, plane in enumerate(planes):
            addresses = np.array([column.addresses[index] for column in self._columns], np.int64)
            lengths = np.array([column.planes[index].size for column in self._columns], np.int64)
            copy_pieces(addresses, lengths, self._starts, sizes, plane.view(-1).numpy())


class DeviceAssembler:
    """Merges staged planes on a device.

    Args:
        layout: Of the dataset's encoders.
        batch_size: Rows of a batch.
        device: Where to.
        empty: What stands in for an encoder that is left out; None: zeros.
    """

    def __init__(self, layout: ContextLayout, batch_size: int, device: torch.device, empty: EmptyPrompt | None) -> None:
        self._layout = layout
        self._batch_size = batch_size
        self._device = device
        self._empty = None if empty is None else {name: self._upload(*found) for name, found in empty.items()}

    def assemble(self, staged: StagedBatch) -> Conditioning:
        """Uploads and merges a batch, on the current stream.

        Returns:
            In the storage dtype, on the device.
        """
        layout, dtype = self._layout, TORCH_DTYPES[self._layout.storage_dtype]
        context = torch.zeros((self._batch_size, layout.num_tokens, layout.width), dtype=dtype, device=self._device)
        pooled = torch.zeros((self._batch_size, layout.pooled_width), dtype=dtype, device=self._device)
        for name, slot in layout.slots.items():
            channels = context.view(-1, layout.width)[:, slot.channel : slot.channel + slot.hidden_size]
            self._merge_into(channels, staged.hidden[name])
            vectors = pooled[:, slot.pooled_channel : slot.pooled_channel + slot.pooled_size]
            if name in staged.pooled:
                self._merge_into(vectors, staged.pooled[name])
            if self._empty is not None and len(staged.left_out[name]):
                rows = staged.left_out[name].to(self._device, non_blocking=True)
                hidden, stored_pooled = self._empty[name]
                tokens = slice(slot.token, slot.token + min(len(hidden), slot.num_tokens))
                context[rows, tokens, slot.channel : slot.channel + slot.hidden_size] = hidden[: slot.num_tokens]
                if stored_pooled is not None:
                    vectors[rows] = stored_pooled
        return Conditioning(context, pooled)

    def _merge_into(self, target: torch.Tensor, staged: StagedTensor) -> None:
        planes = [plane.to(self._device, non_blocking=True) for plane in staged.planes]
        # Least significant byte first, as numbers lie in memory.
        merged = torch.stack(planes[::-1], dim=-1).view(target.dtype).squeeze(-1)
        target.index_copy_(0, staged.places.to(self._device, non_blocking=True), merged)

    def _upload(
        self, hidden: npt.NDArray[np.generic], pooled: npt.NDArray[np.generic] | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        dtype = self._layout.storage_dtype
        there = None if pooled is None else torch_tensor(pooled, dtype).to(self._device)
        return torch_tensor(hidden, dtype).to(self._device), there

"""Copies encoder outputs to the host in stored form: cast, checked for NaN, split into byte planes.

All of it but the copy is done on the device. On a GPU it runs on a side stream and copies into page-locked memory, so
that the next batch is computed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch

from pipeline.encoded import EncodedBatch
from pipeline.encoders import EncoderOutput
from pipeline.provenance import host_name
from schemas.errors import EncodeOnceError
from schemas.planes import STORAGE_DTYPES

TORCH_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


_BLOCK_BYTES = 16 * 1024**2
"""A power of two, since torch rounds page-locked memory up to one: whole planes of an `sd3` window would take 704 MiB
instead of 491. Smaller blocks waste less of the last one and take more copies."""


class PageLockedMemoryError(EncodeOnceError):
    """The system refuses page-locked memory; the device and its process are sound."""


@dataclass(frozen=True)
class _Prepared:
    """A batch of B captions, N tokens, in stored form. Every element is one byte.

    Attributes:
        hidden: A uint8 [N, D] tensor for each plane.
        pooled: A uint8 [B, P] tensor for each plane, or none.
        eos: A uint8 [B, D] tensor for each plane, or none.
        finite_tokens: bool [N].
        finite_rows: bool [B]; None without vectors.
    """

    hidden: list[torch.Tensor]
    pooled: list[torch.Tensor] | None
    eos: list[torch.Tensor] | None
    finite_tokens: torch.Tensor
    finite_rows: torch.Tensor | None

    @property
    def num_bytes(self) -> int:
        """Of all tensors."""
        vectors = [*(self.pooled or ()), *(self.eos or ()), *([] if self.finite_rows is None else [self.finite_rows])]
        return sum(tensor.numel() for tensor in (*self.hidden, self.finite_tokens, *vectors))

    def map(
        self,
        of_tokens: Callable[[torch.Tensor], torch.Tensor],
        of_rows: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> _Prepared:
        """Applies one function to tensors of N rows, another (default: the same) to those of B rows."""
        of_rows = of_rows or of_tokens
        return _Prepared(
            [of_tokens(tensor) for tensor in self.hidden],
            None if self.pooled is None else [of_rows(tensor) for tensor in self.pooled],
            None if self.eos is None else [of_rows(tensor) for tensor in self.eos],
            of_tokens(self.finite_tokens),
            None if self.finite_rows is None else of_rows(self.finite_rows),
        )


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream for copies to the host: one for each device, since each has cached memory of its own."""
    return torch.cuda.Stream(device)


class Transfer:
    """Copies batches to the host.

    Args:
        device: Of the encoders.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = side_stream(device) if device.type == "cuda" else None

    def start(
        self, output: EncoderOutput, stored_tokens: npt.NDArray[np.int64], storage_dtype: str
    ) -> Callable[[], list[EncodedBatch]]:
        """Launches the copy of one batch.

        Args:
            output: Of `TextEncoder.encode_packed`, launched on the current stream.
            stored_tokens: int64 [B], of each caption.
            storage_dtype: To cast to.

        Returns:
            Waits for the copy and returns the captions, in order, in one or several batches.

        Raises:
            PageLockedMemoryError: There is not enough of it.
        """
        dtype = TORCH_DTYPES[storage_dtype]
        if self._stream is None:
            prepared = _prepare(output, dtype)
            return lambda: [_batch(prepared, stored_tokens)]
        # Before the side stream becomes the current one: it has to wait for this one.
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            for tensor in (output.hidden, output.pooled, output.eos):
                if tensor is not None:
                    # Its memory must not be given to the next batch while this stream still reads it.
                    tensor.record_stream(self._stream)
            prepared = _prepare(output, dtype)
            copied = [(_to_host(part), stored) for part, stored in _blocks(prepared, stored_tokens)]
            done = torch.cuda.Event()
            done.record(self._stream)

        def finish() -> list[EncodedBatch]:
            done.synchronize()
            return [_batch(part, stored) for part, stored in copied]

        return finish


def _prepare(output: EncoderOutput, dtype: torch.dtype) -> _Prepared:
    hidden = output.hidden.to(dtype)
    vectors = [None if tensor is None else tensor.to(dtype) for tensor in (output.pooled, output.eos)]
    # After the cast: a value that float16 cannot hold is as lost as a NaN.
    finite = [torch.isfinite(tensor).all(dim=-1) for tensor in (hidden, *vectors) if tensor is not None]
    pooled, eos = (None if tensor is None else _planes(tensor) for tensor in vectors)
    finite_rows = torch.stack(finite[1:]).all(dim=0) if finite[1:] else None
    return _Prepared(_planes(hidden), pooled, eos, finite[0], finite_rows)


def _planes(values: torch.Tensor) -> list[torch.Tensor]:
    """Byte planes of [n, width], most significant first, uint8 [n, width] each."""
    if values.element_size() == 2:
        # Twice as fast on a processor as copying every other byte: conversions wrap around.
        bits = values.contiguous().view(torch.int16)
        return [(bits >> 8).to(torch.uint8), bits.to(torch.uint8)]
    interleaved = values.contiguous().view(torch.uint8).view(*values.shape, values.element_size())
    return [interleaved[..., index].contiguous() for index in reversed(range(values.element_size()))]


def _blocks(
    prepared: _Prepared, stored_tokens: npt.NDArray[np.int64]
) -> Iterator[tuple[_Prepared, npt.NDArray[np.int64]]]:
    """Splits a batch between captions into parts of at most `_BLOCK_BYTES`, or of one caption; with `stored_tokens`."""
    token_bytes = 1 + sum(plane.shape[1] for plane in prepared.hidden)
    row_bytes = 1 + sum(plane.shape[1] for planes in (prepared.pooled, prepared.eos) for plane in planes or ())
    tokens = np.concatenate([[0], np.cumsum(stored_tokens)])
    ends = tokens * token_bytes + np.arange(len(tokens)) * row_bytes
    start = 0
    while start < len(stored_tokens):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + _BLOCK_BYTES, side="right")) - 1)
        of_tokens, of_rows = slice(int(tokens[start]), int(tokens[stop])), slice(start, stop)
        yield prepared.map(itemgetter(of_tokens), itemgetter(of_rows)), stored_tokens[of_rows]
        start = stop


def _to_host(part: _Prepared) -> _Prepared:
    """Launches the copy of a part into one block of page-locked memory, which lives as long as a view of it does."""
    block, at = page_locked(part.num_bytes), 0

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal at
        there = block[at : at + tensor.numel()].view(tensor.dtype).view(tensor.shape)
        at += tensor.numel()
        return there.copy_(tensor, non_blocking=True)

    return part.map(copied)


def page_locked(num_bytes: int) -> torch.Tensor:
    """Page-locked memory, uint8 [num_bytes].

    Raises:
        PageLockedMemoryError: There is not enough of it.
    """
    try:
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
    except RuntimeError as error:
        # cudaHostAlloc's failure is no `torch.OutOfMemoryError`. Other errors are of kernels launched before.
        if "out of memory" not in str(error):
            raise
        raise PageLockedMemoryError(
            "page-locked-memory",
            where=f"main memory of {host_name()}",
            expected=f"{num_bytes:,} more bytes of page-locked memory, for outputs on their way to the dataset",
            actual="the system refuses them",
            remedy="run fewer workers on this machine, or raise its memory limit (container, cgroup, `ulimit -l`)",
        ) from error


def _batch(found: _Prepared, stored_tokens: npt.NDArray[np.int64]) -> EncodedBatch:
    starts = np.concatenate([[0], np.cumsum(stored_tokens)])
    finite = np.logical_and.reduceat(found.finite_tokens.numpy(), starts[:-1])
    if found.finite_rows is not None:
        finite = finite & found.finite_rows.numpy()
    return EncodedBatch(_numpy(found.hidden) or [], starts, _numpy(found.pooled), _numpy(found.eos), finite)


def _numpy(planes: Sequence[torch.Tensor] | None) -> list[npt.NDArray[np.uint8]] | None:
    return None if planes is None else [plane.numpy() for plane in planes]


def numpy_array(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    """A numpy array of the same bits; torch has no numpy name for bfloat16."""
    tensor = tensor.cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    array: npt.NDArray[np.generic] = tensor.numpy()
    assert array.dtype in STORAGE_DTYPES.values()
    return array

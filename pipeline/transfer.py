"""From an encoder's outputs to stored form on the host: cast, checked, split into byte planes, copied.

All of it but the copy happens on the device; on a GPU in a stream of its own, into page-locked memory, so that the next
batch is computed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch

from pipeline.encoded import EncodedBatch
from pipeline.encoders import EncoderOutput
from schemas.planes import STORAGE_DTYPES

TORCH_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class _Prepared:
    """On one device. `hidden`, `pooled`, `eos`: a uint8 tensor each plane; `finite`: bool [N] tokens, [B] vectors."""

    hidden: list[torch.Tensor]
    pooled: list[torch.Tensor] | None
    eos: list[torch.Tensor] | None
    finite_tokens: torch.Tensor
    finite_rows: torch.Tensor | None

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> _Prepared:
        def each(tensors: list[torch.Tensor] | None) -> list[torch.Tensor] | None:
            return None if tensors is None else [function(tensor) for tensor in tensors]

        return _Prepared(
            [function(tensor) for tensor in self.hidden],
            each(self.pooled),
            each(self.eos),
            function(self.finite_tokens),
            None if self.finite_rows is None else function(self.finite_rows),
        )


class Transfer:
    """Brings batches to the host.

    Args:
        device: Of the encoders.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def start(
        self, output: EncoderOutput, stored_tokens: npt.NDArray[np.int64], storage_dtype: str
    ) -> Callable[[], EncodedBatch]:
        """Begins to bring a batch.

        Args:
            output: Of `TextEncoder.encode_packed`.
            stored_tokens: int64 [B], of each caption.
            storage_dtype: To cast to.

        Returns:
            Waits for the batch and gives it.
        """
        dtype = TORCH_DTYPES[storage_dtype]
        if self._stream is None:
            prepared = _prepare(output, dtype)
            return lambda: _batch(prepared, stored_tokens)
        with torch.cuda.stream(self._stream):
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            prepared = _prepare(output, dtype)
            for tensor in (output.hidden, output.pooled, output.eos):
                if tensor is not None:
                    # Its memory must not be given to the next batch while this stream still reads it.
                    tensor.record_stream(self._stream)
            copied = prepared.map(_to_pinned)
            done = torch.cuda.Event()
            done.record(self._stream)

        def finish() -> EncodedBatch:
            done.synchronize()
            return _batch(copied, stored_tokens)

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


def _to_pinned(tensor: torch.Tensor) -> torch.Tensor:
    there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return there.copy_(tensor, non_blocking=True)


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

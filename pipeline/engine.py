"""The encode engine: windows of tokenized captions in, tensors in the storage dtype out. Plain torch, no ray."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch

from pipeline.batching import batch_by_tokens
from pipeline.counters import Counters
from pipeline.encoders import EncoderOutput, TextEncoder
from pipeline.tokenizers import TokenizedCaptions
from pipeline.windows import Window
from schemas.identity import ENCODER_NAMES
from schemas.planes import STORAGE_DTYPES

TORCH_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class CaptionTensors:
    """What one encoder made of one caption; arrays in the storage dtype, possibly views into larger ones.

    Attributes:
        num_tokens: Real tokens.
        truncated: Whether tokens were cut.
        hidden: [T, D], T as stored.
        pooled: [P] or None.
        eos: [D] or None.
    """

    num_tokens: int
    truncated: bool
    hidden: npt.NDArray[np.generic]
    pooled: npt.NDArray[np.generic] | None
    eos: npt.NDArray[np.generic] | None

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in (self.hidden, self.pooled, self.eos) if array is not None)

    def copy(self) -> CaptionTensors:
        """Arrays of its own, so that a window need not stay in memory for one row of it."""
        pooled, eos = (None if array is None else array.copy() for array in (self.pooled, self.eos))
        return CaptionTensors(self.num_tokens, self.truncated, self.hidden.copy(), pooled, eos)


EncodedCaption = Mapping[str, CaptionTensors]
"""By encoder name."""


@dataclass(frozen=True)
class EncodedWindow:
    """Rows of a shard with their tensors.

    Attributes:
        keys: [rows].
        captions: [rows].
        rows: [rows]; None for a row that was rejected.
        not_finite: Indices of rows with a caption whose outputs are not finite in the storage dtype.
        counters: What this window added.
    """

    keys: Sequence[str]
    captions: Sequence[str | None]
    rows: Sequence[EncodedCaption | None]
    not_finite: Sequence[int]
    counters: Counters


class RepeatedCaptions:
    """Tensors of captions that come again later in the shard, within a budget of bytes; least recently used go first.

    Args:
        repeated: Hashes of captions that occur more than once; a chance hit costs memory and nothing else.
        max_bytes: Bound on the tensors held.
    """

    def __init__(self, repeated: Iterable[int], max_bytes: int) -> None:
        self._repeated = frozenset(repeated)
        self._max_bytes = max_bytes
        self._held: OrderedDict[str, EncodedCaption] = OrderedDict()
        self._num_bytes = 0

    def get(self, caption: str) -> EncodedCaption | None:
        """The tensors of a caption, if they are still held."""
        if caption not in self._held:
            return None
        self._held.move_to_end(caption)
        return self._held[caption]

    def put(self, caption: str, encoded: EncodedCaption) -> None:
        """Holds a caption's tensors if it occurs more than once."""
        if hash(caption) not in self._repeated or caption in self._held:
            return
        self._held[caption] = {name: tensors.copy() for name, tensors in encoded.items()}
        self._num_bytes += sum(tensors.num_bytes for tensors in encoded.values())
        while self._num_bytes > self._max_bytes:
            _, dropped = self._held.popitem(last=False)
            self._num_bytes -= sum(tensors.num_bytes for tensors in dropped.values())


class EncodeEngine:
    """Runs the three encoders over windows of captions.

    Args:
        encoders: All three, on one device.
        batch_tokens: Bound on the padded tokens of a batch.
    """

    def __init__(self, encoders: Mapping[str, TextEncoder], batch_tokens: int) -> None:
        self.encoders = encoders
        self._batch_tokens = batch_tokens

    def encode(self, windows: Iterable[Window], repeated: RepeatedCaptions) -> Iterator[EncodedWindow]:
        """Encodes windows in order; a caption that repeats in the shard is computed once."""
        for window in windows:
            yield self.encode_window(window, repeated)

    def encode_window(self, window: Window, repeated: RepeatedCaptions) -> EncodedWindow:
        """Encodes one window. What it gives depends on the shard's captions up to here alone, so a rerun is equal."""
        started = time.perf_counter()
        held = {caption: repeated.get(caption) for caption in window.distinct}
        new = [index for index, caption in enumerate(window.distinct) if held[caption] is None]
        num_tokens = num_padded = 0
        columns: dict[str, list[CaptionTensors | None]] = {}
        for name in ENCODER_NAMES:
            tokens = _select(window.tokens[name], new)
            columns[name], padded = self._encode_distinct(self.encoders[name], tokens)
            num_tokens += sum(len(ids) for ids in tokens.ids)
            num_padded += padded
        outputs: dict[str, EncodedCaption | None] = dict(held)
        for position, index in enumerate(new):
            tensors = {name: columns[name][position] for name in ENCODER_NAMES}
            found: dict[str, CaptionTensors] = {name: one for name, one in tensors.items() if one is not None}
            outputs[window.distinct[index]] = found if len(found) == len(ENCODER_NAMES) else None
        rows = [None if caption is None else outputs[caption] for caption in window.captions]
        for caption, encoded in outputs.items():
            if encoded is not None:
                repeated.put(caption, encoded)
        present = [row for row in rows if row is not None]
        counters = Counters(
            num_captions=len(present),
            num_repeated=len(present) - sum(outputs[window.distinct[index]] is not None for index in new),
            num_tokens=num_tokens,
            num_padded_tokens=num_padded,
            num_truncated=sum(any(tensors.truncated for tensors in row.values()) for row in present),
            encode_seconds=time.perf_counter() - started,
        )
        not_finite = [
            i for i, (c, row) in enumerate(zip(window.captions, rows, strict=True)) if c is not None and row is None
        ]
        return EncodedWindow(window.keys, window.captions, rows, not_finite, counters)

    @torch.inference_mode()
    def _encode_distinct(
        self, encoder: TextEncoder, tokens: TokenizedCaptions
    ) -> tuple[list[CaptionTensors | None], int]:
        """One encoder's tensors of captions, None where they are not finite; and the padded tokens computed."""
        identity = encoder.identity
        out: list[CaptionTensors | None] = [None] * len(tokens.ids)
        padded = 0
        batches = batch_by_tokens(
            tokens.ids,
            pad_id=encoder.tokenizer.pad_id,
            max_tokens=identity.max_tokens,
            padding=identity.padding,
            budget_tokens=self._batch_tokens,
        )
        for batch in batches:
            padded += batch.num_padded_tokens
            output = encoder.encode(batch.token_ids.to(encoder.device), batch.num_tokens.to(encoder.device))
            num_tokens = batch.num_tokens.numpy()
            stored = np.full_like(num_tokens, identity.max_tokens) if identity.padding == "max_length" else num_tokens
            arrays = _to_storage(output, stored, identity.storage_dtype)
            for position, row in enumerate(batch.rows):
                if arrays.finite[position]:
                    out[row] = arrays.caption(position, int(num_tokens[position]), bool(tokens.truncated[row]))
        return out, padded


@dataclass(frozen=True)
class _StoredBatch:
    """A batch's outputs on the host: `hidden` [sum of stored, D], `offsets` [B + 1] into it."""

    hidden: npt.NDArray[np.generic]
    offsets: npt.NDArray[np.int64]
    pooled: npt.NDArray[np.generic] | None
    eos: npt.NDArray[np.generic] | None
    finite: npt.NDArray[np.bool_]

    def caption(self, position: int, num_tokens: int, truncated: bool) -> CaptionTensors:
        return CaptionTensors(
            num_tokens,
            truncated,
            self.hidden[self.offsets[position] : self.offsets[position + 1]],
            None if self.pooled is None else self.pooled[position],
            None if self.eos is None else self.eos[position],
        )


def _to_storage(output: EncoderOutput, stored: npt.NDArray[np.int64], storage_dtype: str) -> _StoredBatch:
    """Takes the rows to store, casts them, and brings them to the host."""
    dtype = TORCH_DTYPES[storage_dtype]
    device = output.hidden.device
    keep = torch.arange(output.hidden.shape[1], device=device) < torch.from_numpy(stored).to(device)[:, None]
    hidden = output.hidden[keep].to(dtype)
    offsets = np.concatenate([[0], np.cumsum(stored)])
    # After the cast: a value that float16 cannot hold is as lost as a NaN.
    finite = np.logical_and.reduceat(torch.isfinite(hidden).all(dim=-1).cpu().numpy(), offsets[:-1])
    vectors: list[npt.NDArray[np.generic] | None] = []
    for tensor in (output.pooled, output.eos):
        if tensor is None:
            vectors.append(None)
            continue
        cast = tensor.to(dtype)
        finite &= torch.isfinite(cast).all(dim=-1).cpu().numpy()
        vectors.append(numpy_array(cast))
    return _StoredBatch(numpy_array(hidden), offsets, vectors[0], vectors[1], finite)


def numpy_array(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    """A numpy array of the same bits; torch has no numpy name for bfloat16."""
    tensor = tensor.cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    array: npt.NDArray[np.generic] = tensor.numpy()
    assert array.dtype in STORAGE_DTYPES.values()
    return array


def _select(tokens: TokenizedCaptions, rows: Sequence[int]) -> TokenizedCaptions:
    return TokenizedCaptions(
        ids=[tokens.ids[row] for row in rows], truncated=tokens.truncated[np.array(rows, np.int64)]
    )

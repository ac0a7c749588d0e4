"""The encode engine: windows of tokenized captions in, byte planes on the host out. Plain torch, no ray.

On a GPU a window is launched before the one before it is waited for, so that the device always has work: everything
from ids to page-locked planes is queued, and the thread that drives it only waits for what was finished meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from pipeline.batch_budget import measured_batch_tokens
from pipeline.batching import Batches
from pipeline.counters import Counters
from pipeline.encoded import CaptionTensors, EncodedBatch, EncodedCaption, EncodedWindow
from pipeline.encoders import TextEncoder
from pipeline.encoders.packed import SIZE_STEP, round_up_size
from pipeline.repeated_captions import RepeatedCaptions
from pipeline.transfer import Transfer
from pipeline.windows import Window
from schemas.identity import ENCODER_NAMES

_log = logging.getLogger(__name__)

_MIN_BATCH_TOKENS = 256
_CPU_BATCH_TOKENS = 1024


@dataclass
class _Flight:
    """A window on its way.

    Attributes:
        window: What is encoded.
        new: Indices into `window.distinct` of the captions that are computed.
        known: Of the others, the tensors, or the flight of an earlier window that computes them.
        batches: Encoder, positions in `new`, and how to wait for the outputs.
        outputs: By caption, once finished; None where they are not finite.
    """

    window: Window
    new: list[int]
    known: dict[str, EncodedCaption | _Flight]
    batches: list[tuple[str, npt.NDArray[np.int64], Callable[[], list[EncodedBatch]]]] = field(default_factory=list)
    outputs: dict[str, EncodedCaption | None] = field(default_factory=dict)
    num_tokens: int = 0
    num_padded: int = 0
    flops: float = 0.0
    events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
    seconds: float = 0.0


class EncodeEngine:
    """Runs the three encoders over windows of captions.

    Args:
        encoders: All three, on one device.
        batch_tokens: Bound on the tokens of a batch; halved, for good, when the device's memory does not suffice.
            None: measured.
    """

    def __init__(self, encoders: Mapping[str, TextEncoder], batch_tokens: int | None = None) -> None:
        self.encoders = encoders
        self.batch_tokens = measured_batch_tokens(encoders, _CPU_BATCH_TOKENS) if batch_tokens is None else batch_tokens
        device = encoders[ENCODER_NAMES[0]].device
        self._is_cuda = device.type == "cuda"
        # While the host waits for one window, the device has the next. A processor has nothing to wait for.
        self._windows_ahead = 1 if self._is_cuda else 0
        self._transfer = Transfer(device)

    def encode(self, windows: Iterable[Window], repeated: RepeatedCaptions) -> Iterator[EncodedWindow]:
        """Encodes windows in order; a caption that repeats in the shard is computed once.

        What it gives depends on the shard's captions alone, as long as memory suffices, so a rerun is equal.
        """
        flying: deque[_Flight] = deque()
        for window in windows:
            flying.append(self._launch(window, repeated, flying))
            while len(flying) > self._windows_ahead:
                yield self._finish(flying.popleft(), repeated)
        while flying:
            yield self._finish(flying.popleft(), repeated)

    def _launch(self, window: Window, repeated: RepeatedCaptions, flying: Iterable[_Flight]) -> _Flight:
        started = time.perf_counter()
        computing = {flight.window.distinct[index]: flight for flight in flying for index in flight.new}
        known: dict[str, EncodedCaption | _Flight] = {}
        for caption in window.distinct:
            found = repeated.get(caption) or computing.get(caption)
            if found is not None:
                known[caption] = found
        new = [index for index, caption in enumerate(window.distinct) if caption not in known]
        flight = _Flight(window, new, known)
        if self._is_cuda:
            flight.events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            flight.events[0].record()
        for name in ENCODER_NAMES:
            self._launch_encoder(self.encoders[name], flight)
        if flight.events is not None:
            flight.events[1].record()
        flight.seconds = time.perf_counter() - started
        return flight

    def _launch_encoder(self, encoder: TextEncoder, flight: _Flight) -> None:
        identity, tokens = encoder.identity, flight.window.tokens[encoder.name]
        ids = [tokens.ids[index] for index in flight.new]
        lengths = np.array([len(one) for one in ids], np.int64)
        stored = np.full_like(lengths, identity.max_tokens) if identity.padding == "max_length" else lengths
        batches = Batches(lengths, padding=identity.padding, max_tokens=identity.max_tokens)
        while len(rows := batches.take(self.batch_tokens)):
            wait = self._launch_batch(encoder, [ids[row] for row in rows], stored[rows])
            if wait is None:
                # Only now have the error and its traceback let go of the batch's memory.
                self._halve()
                batches.put_back(rows)
                continue
            flight.batches.append((encoder.name, rows, wait))
            flight.num_padded += round_up_size(int(stored[rows].sum()), SIZE_STEP)
        flight.num_tokens += int(lengths.sum())
        flight.flops += encoder.model_flops(stored)

    def _launch_batch(
        self, encoder: TextEncoder, ids: list[npt.NDArray[np.int32]], stored: npt.NDArray[np.int64]
    ) -> Callable[[], list[EncodedBatch]] | None:
        """How to wait for a batch's outputs; None if the device lacks the memory and a smaller batch may do."""
        try:
            num_computed = round_up_size(int(stored.sum()), SIZE_STEP)
            output = encoder.encode_packed(encoder.pack(ids, num_computed=num_computed))
            return self._transfer.start(output, stored, encoder.identity.storage_dtype)
        except torch.OutOfMemoryError:
            if len(ids) == 1 or self.batch_tokens <= _MIN_BATCH_TOKENS:
                raise
            return None

    def _halve(self) -> None:
        torch.cuda.empty_cache()
        self.batch_tokens //= 2
        _log.warning(
            "the device's memory does not suffice for batches of %d tokens: going on with %d",
            2 * self.batch_tokens,
            self.batch_tokens,
        )

    def _finish(self, flight: _Flight, repeated: RepeatedCaptions) -> EncodedWindow:
        started = time.perf_counter()
        window = flight.window
        found: list[dict[str, CaptionTensors]] = [{} for _ in flight.new]
        for name, rows, wait in flight.batches:
            tokens = window.tokens[name]
            captions = [(batch, position) for batch in wait() for position in range(len(batch.finite))]
            for row, (batch, position) in zip(rows, captions, strict=True):
                if batch.finite[position]:
                    index = flight.new[row]
                    truncated = bool(tokens.truncated[index])
                    found[row][name] = batch.caption(position, len(tokens.ids[index]), truncated=truncated)
        for caption, known in flight.known.items():
            flight.outputs[caption] = known.outputs[caption] if isinstance(known, _Flight) else known
        for index, tensors in zip(flight.new, found, strict=True):
            complete = len(tensors) == len(ENCODER_NAMES)
            flight.outputs[window.distinct[index]] = tensors if complete else None
        for caption, encoded in flight.outputs.items():
            if encoded is not None:
                repeated.put(caption, encoded)
        flight.seconds += time.perf_counter() - started
        # Whoever still refers to this flight wants its outputs alone.
        flight.known, flight.batches = {}, []
        return self._encoded(flight)

    def _encoded(self, flight: _Flight) -> EncodedWindow:
        window, outputs = flight.window, flight.outputs
        rows = [None if caption is None else outputs[caption] for caption in window.captions]
        present = [row for row in rows if row is not None]
        computed = sum(outputs[window.distinct[index]] is not None for index in flight.new)
        device_seconds = flight.seconds
        if flight.events is not None:
            # The copies waited for what was launched before them, and the event was recorded after that.
            flight.events[1].synchronize()
            device_seconds = flight.events[0].elapsed_time(flight.events[1]) / 1e3
        counters = Counters(
            num_captions=len(present),
            num_repeated=len(present) - computed,
            num_tokens=flight.num_tokens,
            num_padded_tokens=flight.num_padded,
            num_truncated=sum(any(tensors.truncated for tensors in row.values()) for row in present),
            encode_seconds=flight.seconds,
            device_seconds=device_seconds,
            flops=flight.flops,
        )
        missing = [
            index
            for index, (caption, row) in enumerate(zip(window.captions, rows, strict=True))
            if caption is not None and row is None
        ]
        return EncodedWindow(window.keys, window.captions, rows, missing, counters)

"""Our engine: windows as production makes them, through `EncodeEngine`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch

from benchmarks.encode.timing import Row, seconds_of
from pipeline.counters import Counters
from pipeline.encoders import TextEncoder
from pipeline.engine import EncodeEngine
from pipeline.engine_settings import EngineSettings
from pipeline.repeated_captions import RepeatedCaptions
from pipeline.windows import Window, default_chunk_rows, window_rows
from schemas.identity import ENCODER_NAMES, CaptionIdentity
from schemas.manifest import Layout, Manifest, Provenance

_WARM_UP = 64


def caption_manifest(encoders: Mapping[str, TextEncoder], chunk_rows: int | None = None) -> Manifest:
    """Of a dataset that these encoders make; the layout is the pipeline's default, but for `chunk_rows` if given."""
    identity = CaptionIdentity(**{name: encoders[name].identity for name in ENCODER_NAMES})
    rows = default_chunk_rows(identity) if chunk_rows is None else chunk_rows
    return Manifest(
        layout=Layout(container="arrow", chunk_rows=rows, part_bytes=64 * 1024**2),
        captions=identity,
        created=Provenance(run_id="benchmark", time="1970-01-01T00:00:00+00:00", versions={}),
    )


def windows_of(captions: Sequence[str], encoders: Mapping[str, TextEncoder], settings: EngineSettings) -> list[Window]:
    """Tokenized beforehand; a window has as many rows as in production."""
    num_rows = window_rows(caption_manifest(encoders), settings.window_bytes)
    windows = []
    for start in range(0, len(captions), num_rows):
        rows = list(captions[start : start + num_rows])
        distinct = list(dict.fromkeys(rows))
        tokens = {name: encoders[name].tokenizer(distinct) for name in ENCODER_NAMES}
        windows.append(Window([str(start + row) for row in range(len(rows))], rows, distinct, tokens))
    return windows


class OurEngine:
    """Our engine on some captions.

    Attributes: num_captions: of a measurement; batch_tokens: the best of those tried; row: the figures.

    Args:
        engine: Name in the results.
        kind: Of the captions.
        captions: All different, or nearly.
        encoders: Under one policy.
        settings: As a worker on this device has them.
        budgets: Tokens of a batch to try, besides what the engine chooses itself.
        max_seconds: Of one measurement: fewer captions are measured if they would take longer, one window at least.
    """

    def __init__(
        self,
        engine: str,
        kind: str,
        captions: Sequence[str],
        encoders: Mapping[str, TextEncoder],
        settings: EngineSettings,
        budgets: Sequence[int],
        max_seconds: float = math.inf,
    ) -> None:
        self.encoders = encoders
        self._device = encoders["t5"].device
        self._windows = windows_of(captions, encoders, settings)
        own = EncodeEngine(encoders, settings.batch_tokens)
        self.tried: dict[int, float] = {}
        engines = {own.batch_tokens: own} | {budget: EncodeEngine(encoders, budget) for budget in budgets}
        some = self._windows[: max(1, len(self._windows) // 4)]
        for budget, one in engines.items():
            self._pass(one, windows_of(captions[:_WARM_UP], encoders, settings))
            seconds, counters = self._pass(one, some)
            self.tried[budget] = counters.num_captions / seconds
        self.batch_tokens = max(self.tried, key=self.tried.__getitem__)
        self._engine = engines[self.batch_tokens]
        self._windows = _bounded(self._windows, self.tried[self.batch_tokens] * max_seconds)
        self.num_captions = sum(len(window.captions) for window in self._windows)
        _, counters = self._pass(self._engine, self._windows)
        self.row = Row(
            engine=engine,
            dtype=str(encoders["t5"].identity.compute_dtype),
            captions=kind,
            t5_tokens=encoders["t5"].identity.max_tokens,
            batch=self.batch_tokens,
            tried={str(budget): rate for budget, rate in self.tried.items()},
            flops=counters.flops / counters.num_captions,
            tokens=counters.num_tokens / counters.num_captions,
            padding_share=counters.padding_share,
        )

    def measure(self) -> None:
        """Once more."""
        seconds, counters = self._pass(self._engine, self._windows)
        self.row.rates.append(counters.num_captions / seconds)

    def _pass(self, engine: EncodeEngine, windows: Sequence[Window]) -> tuple[float, Counters]:
        found = []

        def work() -> None:
            # Nothing is kept: production compresses a window and lets go of it.
            found.extend(window.counters for window in engine.encode(windows, RepeatedCaptions((), 0)))

        seconds = seconds_of(work, self._device)
        return seconds, sum(found, Counters())


def _bounded(windows: Sequence[Window], num_captions: float) -> list[Window]:
    """The first windows, up to a number of captions; one at least."""
    ends = itertools.accumulate(len(window.captions) for window in windows)
    return [
        window
        for index, (window, end) in enumerate(zip(windows, ends, strict=True))
        if not index or end <= num_captions
    ]


def tokenizing_rate(captions: Sequence[str], encoders: Mapping[str, TextEncoder]) -> float:
    """Captions a second through all three tokenizers; a worker has a thread of its own for it."""
    seconds = seconds_of(lambda: [encoders[name].tokenizer(captions) for name in ENCODER_NAMES], torch.device("cpu"))
    return len(captions) / seconds

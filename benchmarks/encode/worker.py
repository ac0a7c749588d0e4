"""A whole worker, from tars to committed shards, beside its engine alone on the same captions."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.encode.captions import write_tars
from benchmarks.encode.ours import OurEngine
from benchmarks.encode.stored import TarEncoder
from benchmarks.encode.timing import seconds_of
from pipeline.counters import Counters
from pipeline.encoders import TextEncoder
from pipeline.engine_settings import EngineSettings
from pipeline.shard_encoder import ShardResult
from pipeline.sources import list_inputs


class WholeWorker:
    """`TarEncoder` on tars on the local disk.

    Args:
        captions: Of each tar.
        num_tars: How many, all alike: what one shard computes is of no use to another.
        encoders: Under one policy.
        settings: As production has them.
        engine: On the same captions; the worker has its batch budget.
        folder: For tars and datasets.
    """

    def __init__(
        self,
        captions: Sequence[str],
        num_tars: int,
        encoders: Mapping[str, TextEncoder],
        settings: EngineSettings,
        engine: OurEngine,
        folder: Path,
    ) -> None:
        self.engine = engine
        self.rates: list[float] = []
        self.bytes_per_caption = self.raw_bytes_per_caption = 0.0
        self._num_captions, self._encoders = num_tars * len(captions), encoders
        self._settings = dataclasses.replace(settings, batch_tokens=engine.batch_tokens)
        self._folder = Path(tempfile.mkdtemp(prefix="worker-", dir=folder))
        write_tars(self._folder / "tars", list(captions) * num_tars, num_tars)
        self._inputs = list_inputs(str(self._folder / "tars"))

    def measure(self) -> None:
        """Encodes the tars into a new dataset, which is deleted."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            worker = TarEncoder(self._inputs, Path(folder), self._encoders, self._settings)
            results: list[ShardResult] = []
            seconds = seconds_of(lambda: results.extend(worker.encode()), self._encoders["t5"].device)
        counters = sum((result.counters for result in results), Counters())
        if counters.num_captions != self._num_captions:
            raise RuntimeError(f"{counters.num_captions} of {self._num_captions} captions were encoded")
        self.rates.append(counters.num_captions / seconds)
        self.bytes_per_caption = counters.num_bytes / counters.num_captions
        self.raw_bytes_per_caption = counters.raw_bytes / counters.num_captions

    def facts(self) -> dict[str, Any]:
        """For the results: the share is of measurements that were made one right after the other."""
        shares = [ours / alone for ours, alone in zip(self.rates, self.engine.row.rates, strict=True)]
        row = self.engine.row
        return {
            "engine": row.engine,
            "dtype": row.dtype,
            "captions": row.captions,
            "t5_tokens": row.t5_tokens,
            "captions_per_second": round(sorted(self.rates)[len(self.rates) // 2], 2),
            "repetitions": [round(rate, 2) for rate in self.rates],
            "share_of_engine": round(sorted(shares)[len(shares) // 2], 4),
            "bytes_per_caption": round(self.bytes_per_caption),
            "raw_bytes_per_caption": round(self.raw_bytes_per_caption),
        }

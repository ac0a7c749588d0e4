"""A whole worker, from tar to committed shard, beside its engine alone on the same captions."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.encode.captions import write_tars
from benchmarks.encode.ours import OurEngine, caption_manifest
from benchmarks.encode.timing import seconds_of
from pipeline.encoders import TextEncoder
from pipeline.engine_settings import EngineSettings
from pipeline.shard_encoder import ShardEncoder
from pipeline.sources import list_inputs
from schemas.manifest import create_or_require_same
from schemas.storage import Store


class WholeWorker:
    """`ShardEncoder` on a tar on the local disk, without ray.

    Args:
        captions: Of the tar.
        encoders: Under one policy.
        settings: As production has them.
        engine: On the same captions; the worker has its batch budget.
        folder: For tar and datasets.
    """

    def __init__(
        self,
        captions: Sequence[str],
        encoders: Mapping[str, TextEncoder],
        settings: EngineSettings,
        engine: OurEngine,
        folder: Path,
    ) -> None:
        self.engine = engine
        self.rates: list[float] = []
        self.bytes_per_caption = self.raw_bytes_per_caption = 0.0
        self._captions, self._encoders, self._settings = captions, encoders, settings
        self._folder = Path(tempfile.mkdtemp(prefix="worker-", dir=folder))
        write_tars(self._folder / "tars", list(captions), 1)
        self._inputs = list_inputs(str(self._folder / "tars"))

    def measure(self) -> None:
        """Encodes the tar into a new dataset, which is deleted."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            dataset, manifest = Store(folder), caption_manifest(self._encoders)
            create_or_require_same(dataset, manifest)
            device = self._encoders["t5"].device
            worker = ShardEncoder(
                self._inputs.store, dataset, manifest, self._encoders, self._settings, "benchmark", str(device)
            )
            results: list[Any] = []
            seconds = seconds_of(
                lambda: results.append(worker.encode(self._inputs.tars[0], ["txt"], 1)), torch.device(device)
            )
            counters = results[0].counters
        if counters.num_captions != len(self._captions):
            raise RuntimeError(f"{counters.num_captions} of {len(self._captions)} captions were encoded")
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

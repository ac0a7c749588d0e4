"""The whole path of captions: from tars through `ShardEncoder` to a committed dataset, and back through the reader."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.encode.captions import write_tars
from benchmarks.encode.ours import caption_manifest
from pipeline.encoders import TextEncoder
from pipeline.engine_settings import EngineSettings
from pipeline.shard_encoder import ShardEncoder, ShardResult
from pipeline.sources import Inputs, list_inputs
from schemas.dataset import open_dataset
from schemas.manifest import create_or_require_same
from schemas.row import Row
from schemas.storage import Store

_CHUNK_ROWS = 8


class TarEncoder:
    """Encodes tars as one worker of a job does, with as many shards in hand.

    Args:
        inputs: The tars.
        dataset: Folder of the dataset; created.
        encoders: All three, under one policy.
        settings: Budgets, and how many shards are in hand.
        chunk_rows: Rows of a chunk; None: as the pipeline chooses.
    """

    def __init__(
        self,
        inputs: Inputs,
        dataset: Path,
        encoders: Mapping[str, TextEncoder],
        settings: EngineSettings,
        chunk_rows: int | None = None,
    ) -> None:
        store, manifest = Store(str(dataset)), caption_manifest(encoders, chunk_rows)
        create_or_require_same(store, manifest)
        self._inputs, self._settings = inputs, settings
        device = str(encoders["t5"].device)
        self._worker = ShardEncoder(inputs.store, store, manifest, encoders, settings, "benchmark", device)

    def encode(self) -> list[ShardResult]:
        """Encodes and commits the group `txt` of every tar."""
        with ThreadPoolExecutor(self._settings.shards_in_hand) as threads:
            return list(threads.map(lambda tar: self._worker.encode(tar, ["txt"], 1), self._inputs.tars))


def stored_rows(
    captions: Sequence[str], encoders: Mapping[str, TextEncoder], settings: EngineSettings, folder: Path
) -> list[Row]:
    """Captions written through the whole path and read back from the dataset, in order.

    They are in several windows and two shards, so that stages overlap as they do in production.

    Args:
        captions: Of any number, repeats allowed.
        encoders: All three, under one policy.
        settings: Budgets; the window's is not used.
        folder: A subfolder of its own is made here and deleted.
    """
    small = dataclasses.replace(settings, window_bytes=1)  # One chunk a window.
    with tempfile.TemporaryDirectory(prefix="stored-", dir=folder) as name:
        tars, dataset = Path(name, "tars"), Path(name, "dataset")
        write_tars(tars, list(captions), min(2, len(captions)))
        TarEncoder(list_inputs(str(tars)), dataset, encoders, small, _CHUNK_ROWS).encode()
        rows = list(open_dataset(str(dataset), "ledger").rows("txt"))
    if [row.caption for row in rows] != list(captions):
        raise RuntimeError("the dataset's captions are not those of the tars, in their order")
    return rows

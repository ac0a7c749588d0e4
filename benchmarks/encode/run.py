"""One run: all engines in turn, several times, on the same weights and captions."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.encode.accuracy import difference_from_diffusers, worst_differences
from benchmarks.encode.captions import KINDS, captions_of, length_figures
from benchmarks.encode.diffusers_peer import Diffusers, prompt_pipeline
from benchmarks.encode.matrix_product import product_rates
from benchmarks.encode.models import Models, OurEncoders, caption_tokenizer, random_models
from benchmarks.encode.ours import OurEngine, tokenizing_rate
from benchmarks.encode.reference import Reference
from benchmarks.encode.sizes import CLIP_TOKENS, SIZES, T5_TOKENS, Size
from benchmarks.encode.stored import stored_rows
from benchmarks.encode.timing import Row
from benchmarks.encode.whole_job import ray_data_packages, whole_jobs
from benchmarks.encode.worker import WholeWorker
from benchmarks.time_budget import TimeBudget
from pipeline.engine_settings import CPU_SETTINGS, GPU_SETTINGS
from schemas.identity import Padding

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Wanted:
    """What to measure.

    Attributes:
        size: Name in `SIZES`.
        device: Where.
        dtypes: Each is a comparison of its own, the widest first; in the last, the fastest, everything is measured.
        repetitions: Of every measurement; the engines alternate.
        whole_job: Whether the whole jobs are compared.
        cores: Of the whole jobs.
        folder: For files, which are deleted.
        seconds: For all of it. Bounds the captions of a measurement, the repetitions, and what is measured beside the
            main comparisons; infinity: no bound.
    """

    size: str
    device: torch.device
    dtypes: tuple[str, ...]
    repetitions: int
    whole_job: bool
    cores: int
    folder: Path
    seconds: float = math.inf


Facts = dict[str, Any]


def run(wanted: Wanted, size: Size | None = None, on_progress: Callable[[Facts], None] | None = None) -> Facts:
    """All figures.

    Args:
        wanted: What to measure.
        size: Instead of the one that `wanted` names.
        on_progress: Told all figures so far after each measurement.
    """
    size, budget = size or SIZES[wanted.size], TimeBudget(wanted.seconds)
    tokenizer = caption_tokenizer("t5", T5_TOKENS)
    captions = {kind: captions_of(kind, size.num_captions, tokenizer) for kind in KINDS}
    # The first is the widest; a GPU, which is asked for bfloat16 alone, has no need of 22 GB of float32.
    models = random_models(size, wanted.device, _DTYPES[wanted.dtypes[0]])
    products = {name: product_rates(size, wanted.device, _DTYPES[name]) for name in wanted.dtypes}
    facts: Facts = {
        "captions": {
            kind: length_figures([len(ids) for ids in tokenizer(some).ids]) for kind, some in captions.items()
        },
        "parameters": {name: module.num_parameters() for name, module in models.modules.items()},
        "difference_from_diffusers": {},
        "rows": [],
        "workers": [],
    }
    found: list[_Comparison] = []

    def update() -> None:
        best = {name: max(rates.values()) for name, rates in products.items()}
        facts["product_flops_per_second"] = {
            name: {shape: round(rate) for shape, rate in rates.items()} for name, rates in products.items()
        }
        facts["rows"] = [row.facts(best) for comparison in found for row in comparison.rows]
        facts["workers"] = [one.worker.facts() for one in found if one.worker is not None and one.worker.rates]
        if on_progress is not None:
            on_progress(facts)

    for name in wanted.dtypes:
        found.append(_Comparison(wanted, size, models, captions, name, budget, update))
        found[-1].run()
        facts["difference_from_diffusers"][name] = found[-1].difference
    # Before and after: what else the machine did meanwhile must not make the product look slow, and ours quick.
    for name, rates in products.items():
        again = product_rates(size, wanted.device, _DTYPES[name])
        rates.update({shape: max(rate, again[shape]) for shape, rate in rates.items()})
    best = {name: round(max(rates.values()) / 1e12, 3) for name, rates in products.items()}
    _say(f"matrix product, TFLOP/s: {best}")
    facts["tokenizing_captions_per_second"] = round(found[-1].tokenizing, 1)
    update()
    batch = found[-1].best_peer_batch
    # Float32 takes twice the memory of all before.
    found.clear()
    facts["accuracy"] = _accuracy(size, models, captions["short"], wanted.folder)
    if wanted.whole_job:
        facts["whole_job"] = whole_jobs(
            models,
            wanted.folder,
            ray_data_packages(wanted.folder.parent / "ray-data-packages"),
            batch_size=batch,
            dtype=wanted.dtypes[-1],
            cores=wanted.cores,
        )
        _say(f"whole job: {facts['whole_job']}")
    return facts


class _Comparison:
    """All engines in one dtype.

    Attributes: rows: of each engine that was measured; worker: of the last dtype; tokenizing: captions a second;
    difference: from diffusers; best_peer_batch: of diffusers.
    """

    def __init__(
        self,
        wanted: Wanted,
        size: Size,
        models: Models,
        captions: dict[str, list[str]],
        dtype: str,
        budget: TimeBudget,
        on_progress: Callable[[], None],
    ) -> None:
        self.dtype, self._size, self._wanted, self._captions = dtype, size, wanted, captions
        self._is_last = dtype == wanted.dtypes[-1]
        self._budget, self._on_progress = budget, on_progress
        # Some forty measurements fill a bounded run, those included that find the best batches.
        self._max_seconds = wanted.seconds / 40
        mine = models if models.dtype == _DTYPES[dtype] else models.copied(_DTYPES[dtype])
        self._ours, self._pipeline = OurEncoders(mine), prompt_pipeline(mine)
        self._settings = GPU_SETTINGS if wanted.device.type == "cuda" else CPU_SETTINGS
        self._compact, self._sd3 = (
            self._ours.encoders("none", T5_TOKENS),
            self._ours.encoders("max_length", CLIP_TOKENS),
        )
        # Wider formats take longer.
        self._short = captions["short"][: None if self._is_last else size.num_captions // 2]
        self._measured: list[OurEngine | Diffusers] = []
        self.worker: WholeWorker | None = None
        self.difference = self.tokenizing = math.nan
        self.best_peer_batch = 0

    @property
    def rows(self) -> list[Row]:
        return [one.row for one in self._measured if one.row.rates]

    def run(self) -> None:
        """Measures everything, the main comparisons first."""
        size, short = self._size, self._short
        first = self._engine("compact", "short", self._compact, short)
        count = size.num_peer_captions // (1 if self._is_last else 2)
        peer = self._peer("diffusers", self._sd3, short[:count], size.peer_batches)
        self.best_peer_batch, some = peer.row.batch, short[: size.num_checked]
        self.difference = difference_from_diffusers(
            some, stored_rows(some, self._sd3, self._settings, self._wanted.folder), peer
        )
        self.tokenizing = tokenizing_rate(short, self._compact)
        self._measured = [first, peer]
        if self._is_last:
            self._measured.append(self._engine("sd3", "short", self._sd3, short[: size.num_peer_captions]))
            self._measured.append(self._peer("diffusers, batch 1", self._sd3, short[: size.num_single_captions], (1,)))
            self.worker = WholeWorker(
                short[: first.num_captions],
                size.num_worker_tars,
                self._compact,
                self._settings,
                first,
                self._wanted.folder,
            )
        taken = self._measure(self._measured, 1)
        for make in self._others() if self._is_last else ():
            if self._budget.share_left < 0.35:
                _say("no time for the other comparisons")
                break
            one = make()
            taken += self._measure([one], 1)
            self._measured.append(one)
        for number in range(2, self._wanted.repetitions + 1):
            if taken > self._budget.left - 0.2 * self._budget.seconds:
                _say(f"no time for repetition {number}")
                break
            taken = self._measure(self._measured, number)

    def _others(self) -> list[Callable[[], OurEngine | Diffusers]]:
        """What is measured once the main comparisons are done."""
        size, captions = self._size, self._captions
        half = size.num_captions // 2
        others: list[Callable[[], OurEngine | Diffusers]] = [
            lambda: self._engine("compact", "medium", self._compact, captions["medium"][:half]),
            lambda: self._engine("compact", "long", self._compact, captions["long"][:half]),
        ]
        if size.with_t5_256:
            later = self._ours.encoders("max_length", T5_TOKENS)
            some = self._short[: size.num_peer_captions // 2]
            others.append(lambda: self._engine("sd3", "short", later, some))
            others.append(lambda: self._peer("diffusers", later, some, size.peer_batches))
        return others

    def _engine(self, name: str, kind: str, encoders: Any, some: Sequence[str]) -> OurEngine:
        _say(f"trying {name}, {kind}, {self.dtype}")
        return OurEngine(name, kind, some, encoders, self._settings, self._size.budgets, self._max_seconds)

    def _peer(self, name: str, encoders: Any, some: Sequence[str], batches: Sequence[int]) -> Diffusers:
        _say(f"trying {name}, {self.dtype}")
        return Diffusers(name, "short", some, self._pipeline, encoders, batches, self._max_seconds)

    def _measure(self, measured: Sequence[OurEngine | Diffusers], number: int) -> float:
        """One repetition of each; returns its seconds."""
        started = time.perf_counter()
        for one in measured:
            one.measure()
            row = one.row
            _say(
                f"{number} {row.engine}, {row.captions}, T5 at {row.t5_tokens}, {row.dtype}, "
                f"batch {row.batch}: {row.rates[-1]:,.1f} captions/s"
            )
            # One right after the other, so that both have the same machine.
            if self.worker is not None and one is self.worker.engine:
                self.worker.measure()
                _say(f"{number} the same as a whole worker: {self.worker.rates[-1]:,.1f} captions/s")
            self._on_progress()
        return time.perf_counter() - started


def _accuracy(size: Size, models: Models, captions: Sequence[str], folder: Path) -> Facts:
    """What is stored of bfloat16 beside float32, on the same weights: rounded to bfloat16, as they are stored."""
    gc.collect()
    torch.cuda.empty_cache()
    some = captions[: size.num_checked]
    rounded = models if models.dtype == torch.bfloat16 else models.copied(torch.bfloat16)
    stored, reference = OurEncoders(rounded), Reference(rounded)
    settings = GPU_SETTINGS if models.device.type == "cuda" else CPU_SETTINGS
    policies: tuple[tuple[str, Padding, int], ...] = (
        ("compact", "none", T5_TOKENS),
        ("sd3", "max_length", CLIP_TOKENS),
    )
    found = {}
    for policy, padding, tokens in policies:
        rows = stored_rows(some, stored.encoders(padding, tokens), settings, folder)
        exact = (reference.encode(caption, padding, tokens) for caption in some)
        worst = worst_differences(zip(rows, exact, strict=True))
        found[policy] = {name: round(difference.cosine, 6) for name, difference in worst.items()}
    _say(f"least cosines of bfloat16 to float32: {found}")
    return {"captions": len(some), "least_cosine": found}


def _say(text: str) -> None:
    print(text, flush=True)

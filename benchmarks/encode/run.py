"""One run: all engines in turn, several times, on the same weights and captions."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.encode.accuracy import difference_from_diffusers, worst_cosines
from benchmarks.encode.captions import KINDS, captions_of, length_figures
from benchmarks.encode.diffusers_peer import Diffusers, prompt_pipeline
from benchmarks.encode.matrix_product import product_rates
from benchmarks.encode.models import Models, OurEncoders, caption_tokenizer, random_models
from benchmarks.encode.ours import OurEngine, tokenizing_rate
from benchmarks.encode.sizes import CLIP_TOKENS, SIZES, T5_TOKENS, Size
from benchmarks.encode.timing import Row
from benchmarks.encode.whole_job import ray_data_packages, whole_jobs
from benchmarks.encode.worker import WholeWorker
from pipeline.engine_settings import CPU_SETTINGS, GPU_SETTINGS

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
    """

    size: str
    device: torch.device
    dtypes: tuple[str, ...]
    repetitions: int
    whole_job: bool
    cores: int
    folder: Path


def run(wanted: Wanted) -> dict[str, Any]:
    """All figures."""
    size = SIZES[wanted.size]
    tokenizer = caption_tokenizer("t5", T5_TOKENS)
    captions = {kind: captions_of(kind, size.num_captions, tokenizer) for kind in KINDS}
    # The first is the widest; a GPU, which is asked for bfloat16 alone, has no need of 22 GB of float32.
    models = random_models(size, wanted.device, _DTYPES[wanted.dtypes[0]])
    products = {name: product_rates(size, wanted.device, _DTYPES[name]) for name in wanted.dtypes}
    found = [_Comparison(wanted, size, models, captions, name) for name in wanted.dtypes]
    # Before and after: what else the machine did meanwhile must not make the product look slow, and ours quick.
    for name, rates in products.items():
        again = product_rates(size, wanted.device, _DTYPES[name])
        rates.update({shape: max(rate, again[shape]) for shape, rate in rates.items()})
    best = {name: max(rates.values()) for name, rates in products.items()}
    _say(f"matrix product, TFLOP/s: { ({name: round(rate / 1e12, 3) for name, rate in best.items()}) }")
    facts: dict[str, Any] = {
        "captions": {
            kind: length_figures([len(ids) for ids in tokenizer(some).ids]) for kind, some in captions.items()
        },
        "parameters": {name: module.num_parameters() for name, module in models.modules.items()},
        "product_flops_per_second": {
            name: {shape: round(rate) for shape, rate in rates.items()} for name, rates in products.items()
        },
        "rows": [row.facts(best) for comparison in found for row in comparison.rows],
        "workers": [comparison.worker.facts() for comparison in found if comparison.worker is not None],
        "tokenizing_captions_per_second": round(found[-1].tokenizing, 1),
        "difference_from_diffusers": {comparison.dtype: comparison.difference for comparison in found},
    }
    batch = found[-1].best_peer_batch
    # Float32 takes twice the memory of all before.
    del found
    facts["accuracy"] = _accuracy(size, models, captions["short"])
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

    Attributes: rows: of each engine; worker: of the last dtype; tokenizing: captions a second; difference: from
    diffusers; best_peer_batch: of diffusers.
    """

    def __init__(self, wanted: Wanted, size: Size, models: Models, captions: dict[str, list[str]], dtype: str) -> None:
        self.dtype, self._size, self._wanted = dtype, size, wanted
        is_last = dtype == wanted.dtypes[-1]
        mine = models if models.dtype == _DTYPES[dtype] else models.copied(_DTYPES[dtype])
        ours = OurEncoders(mine)
        pipeline = prompt_pipeline(mine)
        settings = GPU_SETTINGS if wanted.device.type == "cuda" else CPU_SETTINGS
        compact, sd3 = ours.encoders("none", T5_TOKENS), ours.encoders("max_length", CLIP_TOKENS)
        # Wider formats take longer.
        short = captions["short"][: None if is_last else size.num_captions // 2]

        def engine(name: str, kind: str, encoders: Any, some: Sequence[str]) -> OurEngine:
            _say(f"trying {name}, {kind}, {dtype}")
            return OurEngine(name, kind, some, encoders, settings, size.budgets)

        def peer(name: str, encoders: Any, count: int, batches: Sequence[int]) -> Diffusers:
            _say(f"trying {name}, {dtype}")
            return Diffusers(name, "short", short[:count], pipeline, encoders, batches)

        first = engine("compact", "short", compact, short)
        best = peer("diffusers", sd3, size.num_peer_captions // (1 if is_last else 2), size.peer_batches)
        measured: list[OurEngine | Diffusers] = [first, best]
        self.best_peer_batch = best.row.batch
        self.difference = difference_from_diffusers(short[: size.num_checked], sd3, best)
        if is_last:
            measured.append(engine("sd3", "short", sd3, short[: size.num_peer_captions]))
            measured.append(peer("diffusers, batch 1", sd3, size.num_single_captions, (1,)))
            for kind in ("medium", "long"):
                measured.append(engine("compact", kind, compact, captions[kind][: size.num_captions // 2]))
            if size.with_t5_256:
                later = ours.encoders("max_length", T5_TOKENS)
                measured.append(engine("sd3", "short", later, short[: size.num_peer_captions // 2]))
                measured.append(peer("diffusers", later, size.num_peer_captions // 2, size.peer_batches))
        self.worker = None
        if is_last:
            self.worker = WholeWorker(short, size.num_worker_tars, compact, settings, first, wanted.folder)
        self.tokenizing = tokenizing_rate(short, compact)
        self._measure(measured)
        self.rows: list[Row] = [one.row for one in measured]

    def _measure(self, measured: Sequence[OurEngine | Diffusers]) -> None:
        for number in range(self._wanted.repetitions):
            for one in measured:
                one.measure()
                row = one.row
                _say(
                    f"{number + 1} {row.engine}, {row.captions}, T5 at {row.t5_tokens}, {row.dtype}, "
                    f"batch {row.batch}: {row.rates[-1]:,.1f} captions/s"
                )
                # One right after the other, so that both have the same machine.
                if self.worker is not None and one is self.worker.engine:
                    self.worker.measure()
                    _say(f"{number + 1} the same as a whole worker: {self.worker.rates[-1]:,.1f} captions/s")


def _accuracy(size: Size, models: Models, captions: Sequence[str]) -> dict[str, Any]:
    """bfloat16 beside float32, on the same weights: rounded to bfloat16, as they are stored."""
    gc.collect()
    torch.cuda.empty_cache()
    some = captions[: size.num_checked]
    rounded = models if models.dtype == torch.bfloat16 else models.copied(torch.bfloat16)
    stored, exact = OurEncoders(rounded), OurEncoders(rounded.copied(torch.float32), take_over=True)
    found = {
        policy: worst_cosines(some, stored.encoders(padding, tokens), exact.encoders(padding, tokens))
        for policy, padding, tokens in (("compact", "none", T5_TOKENS), ("sd3", "max_length", CLIP_TOKENS))
    }
    _say(f"least cosines of bfloat16 to float32: {found}")
    return {"captions": len(some), "least_cosine": found}


def _say(text: str) -> None:
    print(text, flush=True)

"""Values of captions through the whole path: tars, engine, transfer, packing, commit, and the reader.

What is read from the dataset is compared with transformers' own modules in float32, one caption at a time. Encoding the
same tars several times must give the same bytes: values that change between repetitions are a race.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.encode.accuracy import worst_differences
from benchmarks.encode.captions import captions_of, write_tars
from benchmarks.encode.models import OurEncoders, caption_tokenizer, random_models
from benchmarks.encode.reference import Reference
from benchmarks.encode.sizes import CLIP_TOKENS, SIZES, T5_TOKENS
from benchmarks.encode.stored import TarEncoder
from benchmarks.gpu.section import Context
from pipeline.encoders import EncoderConfig, TextEncoder, load_encoder
from pipeline.engine_settings import CPU_SETTINGS, GPU_SETTINGS, EngineSettings
from pipeline.process_settings import apply_process_settings
from pipeline.shard_encoder import ShardResult
from pipeline.sources import list_inputs
from schemas.dataset import Dataset, open_dataset
from schemas.identity import ENCODER_NAMES, ComputeDtype, Padding, StorageDtype
from schemas.row import Row

_NUM_TARS = 3


@dataclass(frozen=True)
class _Case:
    """How captions are encoded, and how far from float32's values they may be.

    Attributes:
        policy: For people.
        padding: The policy.
        t5_tokens: T5's limit.
        compute: Dtype of weights and activations; "float8" of T5 alone, the CLIPs in bfloat16.
        storage: Dtype that is stored.
        clip_error: The largest relative error of a token's vector, of the CLIPs.
        t5_error: The same of T5.
    """

    policy: str
    padding: Padding
    t5_tokens: int
    compute: ComputeDtype
    storage: StorageDtype
    clip_error: float
    t5_error: float

    @property
    def name(self) -> str:
        return f"{self.policy}, {self.compute}, stored as {self.storage}"


_ROUNDED = 0.05
"""Relative error of a token's vector in bfloat16, of 8 bits, after up to 32 layers; 0.01 to 0.02 is usual."""
_SD3 = ("sd3", "max_length", CLIP_TOKENS)
_COMPACT = ("compact", "none", T5_TOKENS)
_REAL = (
    _Case(*_COMPACT, "bfloat16", "bfloat16", _ROUNDED, _ROUNDED),
    _Case(*_SD3, "bfloat16", "bfloat16", _ROUNDED, _ROUNDED),
)
_NARROW = (
    _Case(*_COMPACT, "float32", "float32", 1e-4, 1e-4),
    _Case(*_SD3, "float32", "float32", 1e-4, 1e-4),
    *_REAL,
    _Case(*_COMPACT, "bfloat16", "float16", _ROUNDED, _ROUNDED),
    _Case(*_COMPACT, "float8", "bfloat16", _ROUNDED, 0.25),
)


def narrow(context: Context) -> None:
    """Narrow encoders, loaded from files as a worker loads them, in every dtype."""
    apply_process_settings(context.cores)
    models = random_models(SIZES[context.sizes.narrow], torch.device(context.device), torch.float32)
    # Rounded once, so that every case and the reference have the same weights.
    models = models.copied(torch.bfloat16).copied(torch.float32)
    folder = context.folder / "narrow"
    models.save(folder)
    reference, captions = Reference(models), _captions(context.sizes.num_captions[0])
    for case in _NARROW:
        if case.compute == "float8" and (missing := _float8_missing(context.device)):
            context.result.note(f"{case.name}: needs a GPU, since here {missing}", "")
            continue
        _compare(context, case, _loaded(case, folder, context.device), reference, captions, chunk_rows=16)


def real(context: Context) -> None:
    """The real widths and depths in bfloat16, with windows as large as a GPU worker's."""
    apply_process_settings(context.cores)
    models = random_models(SIZES[context.sizes.real], torch.device(context.device), torch.bfloat16)
    ours, reference = OurEncoders(models), Reference(models)
    captions = _captions(context.sizes.num_captions[1])
    for case in _REAL:
        # A caption takes three times as long where it is padded.
        some = captions if case.padding == "none" else captions[: len(captions) // 3]
        _compare(context, case, ours.encoders(case.padding, case.t5_tokens), reference, some)


def _float8_missing(device: str) -> str | None:
    """Why a CPU has no products of float8 with a scale for each row, as some versions of torch have none."""
    if device != "cpu":
        return None
    matrix, scale = torch.ones(16, 16).to(torch.float8_e4m3fn), torch.ones(16, 1)
    try:
        torch._scaled_mm(matrix, matrix.t(), scale_a=scale, scale_b=scale.t(), out_dtype=torch.bfloat16)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def _captions(count: int) -> list[str]:
    """Of realistic lengths, with some of the least and of the most tokens and some that repeat."""
    tokenizer = caption_tokenizer("t5", T5_TOKENS)
    usual = captions_of("short", count, tokenizer)
    word = usual[0].split()[0]
    awkward = [
        "",
        word,
        *(" ".join([word] * length) for length in (2, 6, 7, 8, 62, 74, 75, 76, 77, 250, 254, 255, 256, 400)),
    ]
    # Spread over the tars, and each a second time far from the first.
    for index, caption in enumerate(awkward):
        usual[(2 * index + 1) % count] = caption
        usual[(2 * index + 1 + count // 2) % count] = caption
    return usual


def _loaded(case: _Case, folder: Path, device: str) -> dict[str, TextEncoder]:
    return {
        name: load_encoder(
            name,
            EncoderConfig(source=str(folder / name), max_tokens=case.t5_tokens if name == "t5" else CLIP_TOKENS),
            padding=case.padding,
            compute_dtype="bfloat16" if name != "t5" and case.compute == "float8" else case.compute,
            storage_dtype=case.storage,
            device=device,
        )
        for name in ENCODER_NAMES
    }


def _compare(
    context: Context,
    case: _Case,
    encoders: Mapping[str, TextEncoder],
    reference: Reference,
    captions: Sequence[str],
    chunk_rows: int | None = None,
) -> None:
    """Encodes captions several times, and compares the first dataset with the reference and the others with it."""
    result = context.result
    settings = GPU_SETTINGS if context.device == "cuda" else dataclasses.replace(CPU_SETTINGS, shards_in_hand=2)
    if chunk_rows is not None:
        settings = dataclasses.replace(settings, window_bytes=1)  # One chunk a window: many windows.
    tars = context.folder / f"tars-{len(captions)}"
    if not tars.exists():
        write_tars(tars, list(captions), _NUM_TARS)
    first: list[str] = []
    for number in range(context.sizes.repetitions):
        dataset = context.folder / f"{case.policy}-{case.compute}-{case.storage}-{number}"
        results = _encode(tars, dataset, encoders, settings, chunk_rows)
        found = open_dataset(str(dataset), "ledger")
        if number:
            parts = _parts(found)
            changed = len(set(first) ^ set(parts)) // 2
            result.check(f"{case.name}: encoded again, the same bytes", parts == first, f"{changed} parts changed")
            continue
        first = _parts(found)
        encoded = sum(group.num_encoded for one in results for group in one.groups)
        rejects = sum(group.num_rejects for one in results for group in one.groups)
        accounted = (encoded, rejects) == (len(captions), 0)
        result.check(
            f"{case.name}: every caption is encoded", accounted, f"{encoded} of {len(captions)}, {rejects} rejects"
        )
        _check_values(context, case, found, reference, captions)
        versions = found.record("txt", found.shards("txt")[0]).writer.versions
        result.facts[case.name] = {name: value for name, value in versions.items() if name.startswith("operations.")}


def _encode(
    tars: Path, dataset: Path, encoders: Mapping[str, TextEncoder], settings: EngineSettings, chunk_rows: int | None
) -> list[ShardResult]:
    return TarEncoder(list_inputs(str(tars)), dataset, encoders, settings, chunk_rows).encode()


def _check_values(
    context: Context, case: _Case, dataset: Dataset, reference: Reference, captions: Sequence[str]
) -> None:
    result, wanted = context.result, context.sizes.num_checked
    # All over the dataset, the awkward ones at its beginning among them.
    step = max(1, 2 * len(captions) // wanted)
    chosen = {*range(wanted // 2), *range(0, len(captions), step)}
    rows: list[Row] = []
    read = []
    for index, row in enumerate(dataset.rows("txt")):
        read.append(row.caption)
        if index in chosen:
            rows.append(row)
    result.check(f"{case.name}: captions in their order", read == list(captions), f"{len(read)} rows")
    lines = [
        f"{case.name}: {len(captions)} captions, {len(rows)} compared; relative errors of a vector, the worst:",
        "",
        "| output | error | allowed | least cosine | between captions |",
        "|---|---|---|---|---|",
    ]
    pairs = ((row, reference.encode(str(row.caption), case.padding, case.t5_tokens)) for row in rows)
    for name, worst in worst_differences(pairs).items():
        limit = case.t5_error if name.startswith("t5") else case.clip_error
        result.check(f"{case.name}: {name}, relative error", worst.error <= limit, f"{worst.error:.2g} of {limit:g}")
        # A check that other captions' values would pass checks nothing.
        apart = worst.power > 2 * limit
        result.check(f"{case.name}: {name}, captions can be told apart", apart, f"{worst.power:.2g} between captions")
        lines.append(f"| {name} | {worst.error:.2g} | {limit:g} | {worst.cosine:.6f} | {worst.power:.2g} |")
    result.note("", *lines, "")


def _parts(dataset: Dataset) -> list[str]:
    """Names of the parts of all shards, each with the digest of its bytes."""
    return [part.name for shard in dataset.shards("txt") for part in dataset.record("txt", shard).parts]

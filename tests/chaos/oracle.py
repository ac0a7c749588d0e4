"""What must hold after a job that faults were done to, beside an undisturbed run of the same inputs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import torch

import schemas
from pipeline.verification.comparison import tensors_of
from schemas.dataset import Dataset
from schemas.identity import ENCODER_NAMES, CaptionIdentity
from schemas.quarantine import read_quarantined
from schemas.row import LatentRow, Row
from schemas.storage import Store
from schemas.validator import validate
from tests.chaos.equality import difference
from tests.chaos.runner import ChaosFailure
from trainer.conditioning import ConditioningConfig
from trainer.distributed import connected
from trainer.key_log import KEYS, open_key_log
from trainer.stream.config import StreamConfig
from trainer.stream.loader import StreamLoader

_Row = TypeVar("_Row", Row, LatentRow)
_DOCUMENTS = {"manifest.json", "manifest.latents.json", "index.arrow"}
_STREAM = StreamConfig(captions=("txt", "json.long_caption"), num_streams=8, num_threads=1, num_readers=2)


@dataclass(frozen=True)
class Poison:
    """A shard that can never be encoded.

    Attributes:
        shard: Its name.
        reason: What every one of its reasons must hold.
    """

    shard: str
    reason: str


def require_same(
    expected: Path,
    actual: Path,
    poisons: Sequence[Poison],
    max_attempts: int,
    scratch: Path,
    *,
    same_threads: bool = True,
) -> None:
    """Compares a dataset with the undisturbed one.

    Args:
        expected: Written without faults from the shards that can be encoded.
        actual: What the job left.
        poisons: All that must be in quarantine.
        max_attempts: After which a shard is quarantined.
        scratch: Folder for logs.
        same_threads: Whether the workers of both had one kind of device and one number of threads: then their values
            must be equal bit for bit, otherwise as section 6.3 of the specification says.

    Raises:
        ChaosFailure: They differ, or something is left over.
    """
    report = validate(str(actual), "values")
    require(report.ok, "the validator finds nothing", [str(finding) for finding in report.findings[:5]])
    left, right = (schemas.open_dataset(str(path), source="ledger") for path in (expected, actual))
    _same_ledger(left, right)
    _same_index(actual, right)
    for group in left.caption_groups:
        for one, other in _pairs(left.rows(group), right.rows(group), f"group {group}"):
            _same_captions(one, other, left.manifest.captions, f"{group}: {one.key}", same_threads=same_threads)
    for image, other_image in _pairs(left.latent_rows(), right.latent_rows(), "group latents"):
        require(_image(image) == _image(other_image), f"latents: {image.key} bit for bit", other_image.key)
    _quarantine(actual, right, poisons, max_attempts)
    _nothing_left_over(actual, right)
    keys = [trained_keys(path, scratch / name) for path, name in ((expected, "expected"), (actual, "actual"))]
    require(keys[0] == keys[1], "the trainer's keys in an epoch are the same", f"{len(keys[1])} steps that differ")
    logged = Counter(key for step in keys[1] for key in step["keys"])
    once = Counter(row.key for row in left.rows("txt"))
    require(logged == once, "each key is trained once", logged - once)


def require(holds: bool, what: str, found: object) -> None:
    """Raises `ChaosFailure` unless it holds."""
    if not holds:
        raise ChaosFailure(f"expected: {what}; found: {found}")


def trained_keys(dataset: Path, folder: Path) -> list[dict[str, Any]]:
    """One epoch through the trainer's loader and its key log: the lines of the log."""
    folder.mkdir(parents=True)
    loader = StreamLoader(
        [schemas.open_dataset(str(dataset))],
        _STREAM,
        ConditioningConfig(dropout=(0, 0, 0)),
        seed=5,
        batch_size=16,
        num_epochs=1,
        dtype=torch.float32,
    )
    with connected("cpu", 60.0) as alone, open_key_log(folder, alone, 0) as log:
        for step, batch in enumerate(loader, 1):
            log(step, [batch])
    (file,) = (folder / KEYS).iterdir()
    return [json.loads(line) for line in file.read_text().splitlines()]


def _same_ledger(left: Dataset, right: Dataset) -> None:
    require(left.groups == right.groups, f"the groups {left.groups}", right.groups)
    for group in left.groups:
        one, other = left.shards(group), right.shards(group)
        require(one == other, f"{group}: each shard once, {one}", other)
        for shard in one:
            figures = [_figures(dataset.record(group, shard)) for dataset in (left, right)]
            require(figures[0] == figures[1], f"{group}/{shard}: {figures[0]}", figures[1])


def _figures(record: Any) -> tuple[object, ...]:
    return (record.num_inputs, record.num_rows, record.num_encoded, record.num_rejects, record.keys_sha256)


def _same_index(folder: Path, ledger: Dataset) -> None:
    require((folder / "index.arrow").is_file(), "an index", "none")
    index = schemas.open_dataset(str(folder), source="index")
    for group in ledger.groups:
        for shard in ledger.shards(group):
            same = index.record(group, shard) == ledger.record(group, shard)
            require(same, f"{group}/{shard} is in the index as in the ledger", "another record")


def _pairs(left: Iterable[_Row], right: Iterable[_Row], where: str) -> Iterator[tuple[_Row, _Row]]:
    pairs: Iterable[tuple[_Row | None, _Row | None]] = zip_longest(left, right)
    for one, other in pairs:
        if one is None or other is None:
            raise ChaosFailure(f"expected: {where}: as many rows; found: more or fewer")
        yield one, other


def _same_captions(one: Row, other: Row, identity: CaptionIdentity, where: str, *, same_threads: bool) -> None:
    facts = [(row.key, row.caption, row.is_null) for row in (one, other)]
    require(facts[0] == facts[1], f"{where}: {facts[0]}", facts[1])
    for name in () if one.is_null else ENCODER_NAMES:
        tokens = [(row[name].num_tokens, row[name].truncated) for row in (one, other)]
        require(tokens[0] == tokens[1], f"{where}: {name} with {tokens[0]}", tokens[1])
        left, right = tensors_of(one[name]), tensors_of(other[name])
        require(set(left) == set(right), f"{where}: {name} with {sorted(left)}", sorted(right))
        for field, tensor in left.items():
            found = difference(tensor, right[field], identity.encoder(name).compute_dtype, same_threads=same_threads)
            require(found is None, f"{where}: {name}'s {field} as equal as SPEC 6.3 promises", found)


def _image(row: LatentRow) -> list[object]:
    """All that a row of pixels holds."""
    if row.is_null:
        return [row.key]
    latents = row.latents
    shown = [str(latents.dtype), latents.shape, latents.tobytes()]
    return [row.key, row.original_size, row.crop, row.size, *shown]


def _quarantine(folder: Path, dataset: Dataset, poisons: Sequence[Poison], max_attempts: int) -> None:
    notes = read_quarantined(Store(str(folder)))
    expected = {(group, poison.shard): poison.reason for poison in poisons for group in dataset.groups}
    require(set(notes) == set(expected), f"in quarantine: {sorted(expected)}", sorted(notes))
    for place, reason in expected.items():
        note = notes[place]
        require(note.attempts >= max_attempts, f"{place}: {max_attempts} attempts", note.attempts)
        # A random kill may have cost one of the attempts.
        named = sum(reason in found for found in note.reasons)
        require(named > 0, f"{place}: the reason {reason!r}", note.reasons)


def _nothing_left_over(folder: Path, dataset: Dataset) -> None:
    kept = set(_DOCUMENTS)
    for group in dataset.groups:
        for shard in dataset.shards(group):
            record = dataset.record(group, shard)
            kept |= {f"ledger/{group}/{shard}.json", f"rejects/{group}/{shard}.jsonl"}
            kept |= {f"shards/{shard}/{part.name}" for part in record.parts}
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    left = {name for name in found - kept if not re.fullmatch(r"runs/[^/]+\.json|quarantine/.+\.json", name)}
    require(not left, "no object of a dead attempt", sorted(left))

"""What a run will cost, before it is begun: captions, bytes and hours, and where each figure comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.job.plan import Plan
from pipeline.sources import Inputs, scan_tar
from schemas.ledger import LedgerRecord, read_record
from schemas.storage import Store

_RECORDS_LOOKED_AT = 8

_GFLOP_PER_TOKEN = {"clip_l": 0.173, "clip_g": 1.271, "t5": 9.291}
"""Of the three real encoders."""
_H200_TFLOPS = 790.0
"""bf16 matrix product of an H200, measured."""
_ASSUMED_UTILIZATION = 0.5


@dataclass(frozen=True)
class Estimate:
    """Figures for what is left to do.

    Attributes:
        num_captions: Captions to encode, all groups.
        stored_bytes: Bytes they will take.
        worker_hours: Hours of one worker.
        basis: What was looked at, for people.
    """

    num_captions: int
    stored_bytes: int
    worker_hours: float
    basis: str


def estimate(
    plan: Plan, inputs: Inputs, dataset: Store, *, row_bytes: int, tokens_per_caption: Mapping[str, int]
) -> Estimate:
    """Extrapolates from shards of this dataset that are committed; without any, from the smallest tar.

    Args:
        plan: What is left to do.
        inputs: The tars.
        dataset: The dataset.
        row_bytes: Raw bytes of a typical caption, from the encoders' shapes.
        tokens_per_caption: Tokens each encoder computes for one.
    """
    records = _some_records(plan, dataset)
    bytes_left = sum(unit.tar.num_bytes * len(unit.groups) for unit in plan.todo.values())
    source_bytes = sum(record.source.num_bytes for record in records)
    encoded = sum(record.num_encoded for record in records)
    if encoded and source_bytes:
        captions = round(encoded * bytes_left / source_bytes)
        stored = round(captions * sum(record.num_bytes for record in records) / encoded)
        seconds = captions * sum(record.writer.seconds for record in records) / encoded
        basis = f"{len(records)} committed shards of this dataset"
        return Estimate(captions, stored, seconds / 3600, basis)
    unit = min(plan.todo.values(), key=lambda unit: unit.tar.num_bytes)
    scan = scan_tar(inputs.store, unit.tar, unit.groups)
    found = len(scan.keys) * len(unit.groups)
    captions = round(found * bytes_left / max(1, unit.tar.num_bytes * len(unit.groups)))
    gflop = sum(_GFLOP_PER_TOKEN[name] * tokens for name, tokens in tokens_per_caption.items())
    hours = captions * gflop / (_H200_TFLOPS * 1e3 * _ASSUMED_UTILIZATION) / 3600
    basis = (
        f"{len(scan.keys)} samples in {unit.tar.shard}.tar; 0.68 of raw; the real encoders at "
        f"{_ASSUMED_UTILIZATION:.0%} of an H200's bf16 matrix product"
    )
    return Estimate(captions, round(captions * row_bytes * 0.68), hours, basis)


def _some_records(plan: Plan, dataset: Store) -> Sequence[LedgerRecord]:
    found = []
    for group, shards in plan.committed.items():
        for shard in sorted(shards)[:_RECORDS_LOOKED_AT]:
            record = read_record(dataset, group, shard)
            if record is not None:
                found.append(record)
    return found

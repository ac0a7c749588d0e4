"""What a run will cost, before it is begun: rows, bytes and hours, and where each figure comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.job.plan import Plan
from pipeline.sources import Inputs, scan_tar
from schemas.latent_manifest import LATENTS_GROUP
from schemas.ledger import LedgerRecord, read_record
from schemas.storage import Store

_RECORDS_LOOKED_AT = 8


@dataclass(frozen=True)
class RowCost:
    """What a row of a group costs, where the dataset cannot tell yet.

    Attributes:
        stored_bytes: Bytes it takes.
        seconds: Of one worker.
    """

    stored_bytes: float
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """Figures for what is left to do.

    Attributes:
        num_captions: Captions to encode, all groups.
        num_images: Images to encode.
        stored_bytes: Bytes they will take.
        worker_hours: Hours of one worker.
        basis: What was looked at, for people.
    """

    num_captions: int
    num_images: int
    stored_bytes: int
    worker_hours: float
    basis: str


def estimate(plan: Plan, inputs: Inputs, dataset: Store, costs: Mapping[str, RowCost]) -> Estimate:
    """Extrapolates each group from its shards that are committed; without any, from the smallest tar.

    Args:
        plan: What is left to do.
        inputs: The tars.
        dataset: The dataset.
        costs: By group, for those that have no committed shard.
    """
    num_rows: dict[str, int] = {}
    stored_bytes = seconds = 0.0
    num_records, rows_per_byte, basis = 0, None, []
    for group in plan.columns:
        bytes_left = sum(unit.tar.num_bytes for unit in plan.todo.values() if group in unit.groups)
        records = _some_records(plan, dataset, group)
        encoded, source_bytes = sum(r.num_encoded for r in records), sum(r.source.num_bytes for r in records)
        if encoded and source_bytes:
            num_records += len(records)
            num_rows[group] = round(encoded * bytes_left / source_bytes)
            stored_bytes += num_rows[group] * sum(record.num_bytes for record in records) / encoded
            seconds += num_rows[group] * sum(record.writer.seconds for record in records) / encoded
        elif bytes_left:
            if rows_per_byte is None:
                rows_per_byte, looked_at = _smallest_tar(plan, inputs)
                basis = [looked_at]
            num_rows[group] = round(rows_per_byte * bytes_left)
            stored_bytes += num_rows[group] * costs[group].stored_bytes
            seconds += num_rows[group] * costs[group].seconds
    if num_records:
        basis = [f"{num_records} committed shards of this dataset", *basis]
    num_images = num_rows.pop(LATENTS_GROUP, 0)
    return Estimate(sum(num_rows.values()), num_images, round(stored_bytes), seconds / 3600, "; ".join(basis))


def _smallest_tar(plan: Plan, inputs: Inputs) -> tuple[float, str]:
    """Samples a byte of the smallest tar left to do, and what was looked at."""
    unit = min(plan.todo.values(), key=lambda unit: unit.tar.num_bytes)
    scan = scan_tar(inputs.store, unit.tar, (), images=True)
    basis = (
        f"{len(scan.keys)} samples in {unit.tar.shard}.tar; captions at 0.68 of raw; the real models at half the "
        "matrix product of an H200"
    )
    return len(scan.keys) / max(1, unit.tar.num_bytes), basis


def _some_records(plan: Plan, dataset: Store, group: str) -> Sequence[LedgerRecord]:
    shards = sorted(plan.committed[group])[:_RECORDS_LOOKED_AT]
    return [record for shard in shards if (record := read_record(dataset, group, shard)) is not None]

"""`python -m pipeline encode`: from a configuration to a finished, accounted-for dataset and an exit status."""

from __future__ import annotations

import dataclasses
from enum import IntEnum

from pipeline.caption_options import caption_identity
from pipeline.job.dry_run import print_plan
from pipeline.job.finalize import Totals, finalize
from pipeline.job.lease import Lease
from pipeline.job.plan import Plan, make_plan
from pipeline.job.report import print_summary
from pipeline.job.run import JobOutcome, run_job
from pipeline.presets import EncodeConfig, require_positive
from pipeline.provenance import host_name, library_versions, new_run_id, now
from pipeline.sources import Inputs, checked_columns, list_inputs
from pipeline.windows import default_chunk_rows
from schemas.documents import seal
from schemas.manifest import Layout, Manifest, Provenance, create_or_require_same
from schemas.storage import Store


class ExitStatus(IntEnum):
    """What `encode` answers to the shell."""

    COMPLETE = 0
    """Every shard is committed and every tar was read whole. Rejected captions, each with its reason, do not count
    against it."""
    ERROR = 1
    """The run could not go on; the message says why."""
    USAGE = 2
    """The command line was wrong."""
    INCOMPLETE = 3
    """The run ended, but shards are quarantined or tars are damaged."""
    STOPPED = 4
    """The run was stopped; the same command resumes it."""


def run(config: EncodeConfig) -> ExitStatus:
    """Encodes what is not encoded yet.

    Raises:
        EncodeOnceError: The configuration, the input or the dataset cannot be used. Nothing was half-written.
    """
    # Here, and not first in a worker: what is wrong with every shard must not quarantine every shard.
    checked_columns(config.columns)
    require_positive(config)
    inputs = list_inputs(config.input)
    dataset = Store(config.output)
    if config.dry_run:
        print_plan(
            config, make_plan(inputs, dataset, config.columns, retry_quarantined=config.retry_quarantined), inputs
        )
        return ExitStatus.COMPLETE
    run_id = new_run_id()
    print(f"encode-once: {len(inputs.tars)} tars in {config.input}; checking the encoders ...", flush=True)
    manifest = create_or_require_same(dataset, _manifest(config, run_id))
    with Lease(dataset, run_id) as lease:
        _save_config(config, dataset, run_id)
        return _run_leased(config, inputs, dataset, manifest, run_id, lease)


def _run_leased(
    config: EncodeConfig, inputs: Inputs, dataset: Store, manifest: Manifest, run_id: str, lease: Lease
) -> ExitStatus:
    plan = make_plan(inputs, dataset, config.columns, retry_quarantined=config.retry_quarantined)
    outcome = JobOutcome.nothing_to_do()
    if plan.todo:
        outcome = run_job(config, plan, inputs, dataset, manifest, run_id, lease)
    else:
        print("Nothing to encode: every shard is committed" + (" or quarantined." if plan.quarantined else "."))
    # After a stop or a lost lease, workers of somebody else's may be writing what looks like an orphan.
    alone = not outcome.stopped and not lease.lost
    totals = finalize(dataset, manifest, config.columns, lease.dead if alone else (), collect_orphans=alone)
    print_summary(config, plan, outcome, totals)
    return _status(plan, outcome, totals)


def _status(plan: Plan, outcome: JobOutcome, totals: Totals) -> ExitStatus:
    if outcome.stopped:
        return ExitStatus.STOPPED
    whole = totals.num_damaged == 0 and not plan.quarantined and not outcome.failures
    return ExitStatus.COMPLETE if whole else ExitStatus.INCOMPLETE


def _manifest(config: EncodeConfig, run_id: str) -> Manifest:
    """What the dataset must be for this run; reads every weight once for its digest."""
    captions = caption_identity(config)
    chunk_rows = config.chunk_rows if config.chunk_rows is not None else default_chunk_rows(captions)
    return Manifest(
        layout=Layout(container=config.container, chunk_rows=chunk_rows, part_bytes=config.part_bytes),
        captions=captions,
        created=Provenance(run_id=run_id, time=now(), versions=library_versions()),
    )


def _save_config(config: EncodeConfig, dataset: Store, run_id: str) -> None:
    """The resolved configuration goes with what it made."""
    body = {"run_id": run_id, "started": now(), "host": host_name(), "versions": library_versions()}
    dataset.create(f"runs/{run_id}.json", seal({**body, "config": dataclasses.asdict(config)}, for_people=True))

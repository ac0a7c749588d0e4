"""`python -m pipeline encode`: from a configuration to a finished, accounted-for dataset and an exit status."""

from __future__ import annotations

import os
from enum import IntEnum

from pipeline.caption_options import caption_identity
from pipeline.compute_dtype import resolve_latent_compute_dtype
from pipeline.job.dry_run import print_plan
from pipeline.job.finalize import Totals, finalize
from pipeline.job.lease import Lease
from pipeline.job.plan import Plan, make_plan
from pipeline.job.report import print_summary
from pipeline.job.run import JobOutcome, run_job
from pipeline.latents import describe_latents
from pipeline.latents.options import require_sound
from pipeline.layout import choose_layout
from pipeline.presets import EncodeConfig, require_positive
from pipeline.provenance import library_versions, new_run_id, now, save_config
from pipeline.sources import Inputs, checked_columns, list_inputs
from schemas.identity import LatentIdentity
from schemas.latent_manifest import LatentManifest, Manifests, create_latents_or_require_same
from schemas.manifest import Manifest, Provenance, create_or_require_same
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
    checked_columns(config.columns, may_be_none=config.latents != "none")
    require_positive(config)
    require_sound(config)
    inputs = list_inputs(config.input)
    dataset = Store(config.output)
    if config.dry_run:
        plan = make_plan(inputs, dataset, config.groups, retry_quarantined=config.retry_quarantined)
        print_plan(config, plan, inputs)
        return ExitStatus.COMPLETE
    run_id = new_run_id()
    print(f"encode-once: {len(inputs.tars)} tars in {config.input}; checking the encoders ...", flush=True)
    manifests = _make_manifests(config, dataset, run_id)
    with Lease(dataset, run_id) as lease:
        save_config(config, dataset, run_id)
        return _run_leased(config, inputs, dataset, manifests, run_id, lease)


def _run_leased(
    config: EncodeConfig, inputs: Inputs, dataset: Store, manifests: Manifests, run_id: str, lease: Lease
) -> ExitStatus:
    plan = make_plan(inputs, dataset, config.groups, retry_quarantined=config.retry_quarantined)
    outcome = JobOutcome.nothing_to_do()
    if plan.todo:
        outcome = run_job(config, plan, inputs, dataset, manifests, run_id, lease)
    else:
        print("Nothing to encode: every shard is committed" + (" or quarantined." if plan.quarantined else "."))
    # After a stop or a lost lease, workers of somebody else's may be writing what looks like an orphan.
    # After a failure too: what was given up may still be at work behind a cut link.
    alone = not outcome.stopped and not lease.lost and not outcome.failures
    totals = finalize(dataset, config.groups, lease.dead if alone else (), collect_orphans=alone)
    print_summary(config, plan, outcome, totals)
    return _status(plan, outcome, totals)


def _status(plan: Plan, outcome: JobOutcome, totals: Totals) -> ExitStatus:
    if outcome.stopped:
        return ExitStatus.STOPPED
    whole = totals.num_damaged == 0 and not plan.quarantined and not outcome.failures
    return ExitStatus.COMPLETE if whole else ExitStatus.INCOMPLETE


def has_cluster(config: EncodeConfig) -> bool:
    """Whether workers may run on other machines than this one."""
    return config.ray_address is not None or "RAY_ADDRESS" in os.environ


def _latent_identity(config: EncodeConfig, dataset: Store) -> LatentIdentity:
    compute_dtype = resolve_latent_compute_dtype(
        config.vae.compute_dtype, dataset, device=config.device, has_cluster=has_cluster(config)
    )
    return describe_latents(config, compute_dtype)


def _make_manifests(config: EncodeConfig, dataset: Store, run_id: str) -> Manifests:
    """What the dataset must be for this run; reads every weight once for its digest before anything is written."""
    captions = caption_identity(config, dataset, has_cluster=has_cluster(config)) if config.columns else None
    latents = _latent_identity(config, dataset) if config.latents != "none" else None
    layout = choose_layout(config, dataset, captions, latents)
    created = Provenance(run_id=run_id, time=now(), versions=library_versions())
    stored_captions, stored_latents = None, None
    if captions is not None:
        stored_captions = create_or_require_same(dataset, Manifest(layout=layout, captions=captions, created=created))
    if latents is not None:
        wanted = LatentManifest(layout=layout, latents=latents, created=created)
        stored_latents = create_latents_or_require_same(dataset, wanted)
    return Manifests(stored_captions, stored_latents)

"""The end of a run, for people: what was done, what the dataset now holds, what is wrong, what to do next."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.job.finalize import Totals
from pipeline.job.plan import Plan
from pipeline.job.run import JobOutcome
from pipeline.job.sizes import readable_bytes
from pipeline.presets import EncodeConfig
from schemas.printable import printable

_SHOWN = 10


def print_summary(config: EncodeConfig, plan: Plan, outcome: JobOutcome, totals: Totals) -> None:
    """Prints it."""
    print()
    for name, text in _lines(config, plan, outcome, totals):
        print(f"{name:<13}{printable(text)}")
    for line in _troubles(plan, outcome, totals):
        print(f"! {printable(line)}")


def _lines(config: EncodeConfig, plan: Plan, outcome: JobOutcome, totals: Totals) -> Iterator[tuple[str, str]]:
    counters = outcome.counters
    yield "dataset", config.output
    yield "columns", " ".join(plan.columns)
    expected = plan.num_shards * len(plan.columns)
    committed = expected - plan.num_todo - len(plan.quarantined) + sum(len(s.groups) for s in outcome.shards)
    yield "shards", f"{committed:,} of {expected:,} committed ({plan.num_committed:,} were before this run)"
    done = [f"{counters.num_captions:,} captions"] if counters.num_captions else []
    done += [f"{counters.num_images:,} images"] if counters.num_images else []
    if done:
        rate = (counters.num_captions + counters.num_images) / max(1e-9, outcome.seconds)
        what = "rows" if len(done) > 1 else done[0].split()[-1]
        yield (
            "this run",
            (
                f"{' and '.join(done)} in {outcome.seconds:,.1f} s with {outcome.num_workers} workers on "
                f"{outcome.device}: {rate:,.1f} {what}/s, workers' start included"
            ),
        )
    if counters.num_captions:
        yield (
            "tokens",
            (
                f"{counters.num_tokens:,} real, padding {counters.padding_share:.1%} of those computed; "
                f"{counters.num_repeated:,} captions were repeats; {counters.num_truncated:,} were truncated"
            ),
        )
    yield "in all", f"{totals.num_inputs:,} inputs = {totals.num_encoded:,} encoded + {totals.num_rejects:,} rejected"
    if totals.raw_bytes:
        ratio = totals.num_bytes / totals.raw_bytes
        each = totals.num_bytes / max(1, totals.num_encoded)
        yield "bytes", f"{readable_bytes(totals.num_bytes)}, {ratio:.3f} of raw, {readable_bytes(each)} a row"


def _troubles(plan: Plan, outcome: JobOutcome, totals: Totals) -> Iterator[str]:
    if outcome.stopped:
        yield f"stopped: {outcome.stopped}; {outcome.num_unfinished:,} tars left. The same command resumes."
    if totals.num_rejects:
        yield f"{totals.num_rejects:,} inputs were rejected; each has its reason under rejects/ in the dataset."
    if totals.num_damaged:
        yield f"{totals.num_damaged:,} tars could not be read whole; `python -m schemas inspect` of a shard says where."
    given_up = [(failure.unit, failure.reasons[-1]) for failure in outcome.failures]
    given_up += [(f"{note.shard} ({note.group}, by an earlier run)", note.reasons[-1]) for note in plan.quarantined]
    if given_up:
        yield f"{len(given_up):,} shards are quarantined (see quarantine/); --retry-quarantined tries them again:"
    for shard, reason in given_up[:_SHOWN]:
        yield f"  {shard}: {' '.join(reason.split())[:300]}"
    if plan.not_in_input:
        yield f"{len(plan.not_in_input):,} committed shards have no tar in this input; they stay as they are."
    if totals.orphans:
        yield f"{len(totals.orphans):,} objects of attempts that died were collected."

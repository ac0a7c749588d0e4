"""What the results of one run say: comparisons with what the project has set itself, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A figure beside its goal.

    Attributes:
        name: What it is.
        value: It.
        text: It, for a table.
        goal: To reach; None where nothing was set.
        at_most: Whether the goal is an upper bound.
    """

    name: str
    value: float
    text: str
    goal: float | None = None
    at_most: bool = False

    @property
    def verdict(self) -> str:
        """For the table's last columns."""
        if self.goal is None:
            return " | "
        reached = self.value <= self.goal if self.at_most else self.value >= self.goal
        return f"{'≤' if self.at_most else '≥'} {self.goal:g} | {'yes' if reached else '**no**'}"


def figures(facts: Facts) -> list[Figure]:
    """All comparisons that a run allows."""
    return [*_ratios(facts), *_shares(facts), *_whole_job(facts)]


def row_of(facts: Facts, engine: str, dtype: str, t5_tokens: int | None = None) -> Mapping[str, Any] | None:
    """The row of an engine on short captions."""
    for row in facts["rows"]:
        tokens_fit = t5_tokens is None or row["t5_tokens"] == t5_tokens
        if (row["engine"], row["captions"], row["dtype"]) == (engine, "short", dtype) and tokens_fit:
            return row
    return None


def _ratios(facts: Facts) -> Iterator[Figure]:
    on_gpu = facts["device"] == "cuda"
    comparisons = [
        ("compact", 256, "diffusers", 77, 4.0 if on_gpu else 2.8),
        ("sd3", 77, "diffusers", 77, 1.3 if on_gpu else None),
        ("sd3", 256, "diffusers", 256, None),
        ("sd3", 77, "diffusers, batch 1", 77, 15.0 if on_gpu else None),
    ]
    for dtype in dict.fromkeys(row["dtype"] for row in facts["rows"]):
        for ours, our_tokens, theirs, their_tokens, goal in comparisons:
            first, second = row_of(facts, ours, dtype, our_tokens), row_of(facts, theirs, dtype, their_tokens)
            if first is None or second is None:
                continue
            ratio = first["captions_per_second"] / second["captions_per_second"]
            limit = "" if their_tokens == 77 else f", T5 at {their_tokens}"
            where = theirs if "batch" in theirs else f"{theirs} at its best batch size"
            yield Figure(f"`{ours}` beside {where}{limit}, {dtype}", ratio, f"{ratio:.2f} ×", goal)


def _shares(facts: Facts) -> Iterator[Figure]:
    if not facts["rows"]:
        return
    on_gpu = facts["device"] == "cuda"
    dtype = facts["rows"][-1]["dtype"]
    for engine, tokens, goal in (("sd3", 77, 0.75 if on_gpu else None), ("compact", 256, None)):
        row = row_of(facts, engine, dtype, tokens)
        if row is not None:
            share = row["share_of_product"]
            yield Figure(f"`{engine}`, model FLOP/s over the matrix product's, {dtype}", share, f"{share:.2f}", goal)
    for worker in facts["workers"]:
        share = worker["share_of_engine"]
        yield Figure(f"whole worker over engine alone, `{worker['engine']}`", share, f"{share:.3f}", 0.97)
        peer = row_of(facts, "diffusers", worker["dtype"], 77)
        if peer is not None:
            ratio = worker["captions_per_second"] / peer["captions_per_second"]
            yield Figure(f"whole worker, `{worker['engine']}`, beside diffusers without files", ratio, f"{ratio:.2f} ×")
    padding = max((row["padding_share"] for row in facts["rows"] if row["engine"] == "compact"), default=0.0)
    yield Figure("padding share, `compact`, the worst", padding, f"{padding:.1%}", 0.05, at_most=True)
    if "accuracy" not in facts:  # The figures so far of a run that is not at its end.
        return
    cosine = min(value for found in facts["accuracy"]["least_cosine"].values() for value in found.values())
    yield Figure("cosine of bfloat16 to float32, the worst row", cosine, f"{cosine:.5f}", 0.9995)


def _whole_job(facts: Facts) -> Iterator[Figure]:
    job = facts.get("whole_job")
    if job is None:
        return
    yield Figure("whole `compact` job beside Ray Data's", job["ratio"], f"{job['ratio']:.2f} ×", 2.5)
    yield Figure(
        "its bytes on disk over Ray Data's", job["bytes_ratio"], f"{job['bytes_ratio']:.3f}", 0.25, at_most=True
    )


def figures_table(facts: Facts) -> list[str]:
    """Each figure beside its goal."""
    lines = ["| figure | measured | to reach | reached |", "|---|---|---|---|"]
    return lines + [f"| {one.name} | {one.text} | {one.verdict} |" for one in figures(facts)]


def rows_table(facts: Facts) -> list[str]:
    """Every engine."""
    names = ("engine", "captions", "T5 tokens", "dtype", "batch", "captions/s", "real tokens/s", "model TFLOP/s")
    names += ("of the product", "padding")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in facts["rows"]:
        unit = "captions" if "diffusers" in row["engine"] else "tokens"
        limit = f"{'≤ ' if row['engine'] == 'compact' else ''}{row['t5_tokens']}"
        lines.append(
            f"| {row['engine']} | {row['captions']} | {limit} | {row['dtype']} | {row['batch']:,} {unit} | "
            f"{row['captions_per_second']:,.1f} | {row['real_tokens_per_second']:,.0f} | "
            f"{row['model_flops_per_second'] / 1e12:.3g} | {row['share_of_product']:.2f} | {row['padding_share']:.1%} |"
        )
    return lines

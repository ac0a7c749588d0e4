"""The page and the README's table from the results: `python -m benchmarks.encode --report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.encode.chart import Bar, bar_chart
from benchmarks.encode.costs import cost_table
from benchmarks.encode.figures import Facts, figures_table, rows_table

RESULTS = "benchmarks/results"
PAGE = "docs/benchmarks-encode.md"
README = "README.md"
_MARKS = ("<!-- begin: {} -->", "<!-- end: {} -->")


def write_report(root: Path) -> None:
    """Writes the generated parts and the plots.

    Args:
        root: Of the repository.
    """
    for name, text in rendered(root).items():
        (root / name).write_text(text, encoding="utf-8")
        print(f"{name} is written")


def rendered(root: Path) -> dict[str, str]:
    """What the documents and plots should hold, by path: generated from the results beside what people wrote."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted((root / RESULTS).glob("encode-*.json"))}
    gpu = next((facts for facts in results.values() if (facts["device"], facts["size"]) == ("cuda", "full")), None)
    parts = [_section(stem, facts) for stem, facts in results.items()] or ["Nothing was measured yet."]
    page, readme = ((root / name).read_text(encoding="utf-8") for name in (PAGE, README))
    documents = {
        PAGE: _replaced(page, "figures", "\n\n".join(parts)),
        README: _replaced(readme, "costs", cost_table(gpu)),
    }
    return documents | {f"docs/{stem}.svg": _chart(facts) for stem, facts in results.items()}


def _section(stem: str, facts: Facts) -> str:
    names = ("python", "torch", "transformers", "diffusers", "ray")
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in names if name in facts["versions"])
    lines = [
        f"### Size `{facts['size']}` on {'a GPU' if facts['device'] == 'cuda' else 'the CPU'}",
        "",
        f"{facts['machine']}; {facts['date']}; {versions}.",
        f"Load of the machine before the run {facts['load_average']:.1f}; the median of {facts['repetitions']}.",
        f"[All figures](../{RESULTS}/{stem}.json).",
        "",
        f"![Captions a second of every engine]({stem}.svg)",
        "",
        *figures_table(facts),
        "",
        *rows_table(facts),
        "",
        *_remarks(facts),
    ]
    return "\n".join(lines)


def _remarks(facts: Facts) -> list[str]:
    lengths = [
        f"{kind}: mean {found['mean']:.1f}, 5th, 50th and 95th percentile {found['p5']:.0f}, {found['p50']:.0f} and "
        f"{found['p95']:.0f}"
        for kind, found in facts["captions"].items()
    ]
    parameters = facts["parameters"]
    products = [
        f"{max(rates.values()) / 1e12:.3g} TFLOP/s in {dtype}"
        for dtype, rates in facts["product_flops_per_second"].items()
    ]
    lines = [
        f"- T5 tokens a caption: {'; '.join(lengths)}.",
        f"- Parameters: {', '.join(f'{name} {count:,}' for name, count in parameters.items())}.",
        f"- The bare matrix product, the best of T5's shapes: {', '.join(products)}.",
        f"- Our three tokenizers in one thread: {facts['tokenizing_captions_per_second']:,.0f} captions/s.",
    ]
    errors = ", ".join(f"{error:.1e} in {dtype}" for dtype, error in facts["difference_from_diffusers"].items())
    lines.append(f"- Ours beside diffusers' on the same captions, relative error of what they give: {errors}.")
    for worker in facts["workers"]:
        lines.append(
            f"- The whole worker, `{worker['engine']}`: {worker['captions_per_second']:,.1f} captions/s, "
            f"{worker['bytes_per_caption']:,} bytes stored a caption of {worker['raw_bytes_per_caption']:,} raw."
        )
    return lines + ([_job(facts["whole_job"])] if "whole_job" in facts else [])


def _job(job: dict[str, Any]) -> str:
    ours, theirs = job["ours"], job["ray_data"]
    return (
        f"- Whole jobs of {job['captions']:,} captions on {job['cores']} cores: ours {ours['seconds']:.0f} s and "
        f"{ours['bytes_per_caption']:,} bytes a caption, Ray Data's {theirs['seconds']:.0f} s and "
        f"{theirs['bytes_per_caption']:,} bytes (batches of {theirs['batch_size']}, {theirs['dtype']}, float16 files)."
    )


def _chart(facts: Facts) -> str:
    bars = [
        Bar(
            f"{row['engine']}, {row['captions']}, {row['dtype']}"
            + (f", T5 at {row['t5_tokens']}" if row["engine"] != "compact" else ""),
            row["captions_per_second"],
            "diffusers" not in row["engine"],
        )
        for row in facts["rows"]
    ]
    return bar_chart(f"Captions a second, size {facts['size']}, {facts['device']}", bars)


def _replaced(text: str, name: str, part: str) -> str:
    """The text with what is between two marks replaced."""
    begin, end = (mark.format(name) for mark in _MARKS)
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no {begin} ... {end}")
    return f"{before}{begin}\n{part}\n{end}{after}"

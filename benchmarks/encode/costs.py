"""What a billion captions would take: GPU-hours and terabytes, as a bound and, once a GPU was measured, as measured."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PEAK_FLOPS = 790e12
"""bfloat16 matrix products of an H200, a second, as measured; the bound assumes nothing but products at this rate."""
_GFLOP_PER_TOKEN = {"clip_l": 0.173, "clip_g": 1.271, "t5": 9.291}
_WIDTHS = {"clip_l": 768, "clip_g": 1280, "t5": 4096}
_VECTORS = 2 * (768 + 1280)
"""Elements of `pooled` and `eos`."""
_STORED_SHARE = 0.688
"""Of the raw bytes, as byte planes under ZSTD, measured on hidden states of real models; random weights differ."""
_BILLION = 1e9


@dataclass(frozen=True)
class Policy:
    """What is encoded of a caption.

    Attributes:
        name: For the table.
        engine: In the results.
        captions: Kind of captions in the results.
        t5_tokens: Limit of T5 in the results.
        clip: Tokens of each CLIP that are computed.
        t5: Tokens of T5 that are computed.
    """

    name: str
    engine: str
    captions: str
    t5_tokens: int
    clip: int
    t5: int

    @property
    def bound(self) -> float:
        """Captions a second of one GPU if all its time went into matrix products."""
        tokens = {"clip_l": self.clip, "clip_g": self.clip, "t5": self.t5}
        return PEAK_FLOPS / sum(1e9 * _GFLOP_PER_TOKEN[name] * count for name, count in tokens.items())

    @property
    def stored_bytes(self) -> float:
        """Bytes of a caption in the bucket."""
        tokens = {"clip_l": self.clip, "clip_g": self.clip, "t5": self.t5}
        return 2 * _STORED_SHARE * (sum(_WIDTHS[name] * count for name, count in tokens.items()) + _VECTORS)


POLICIES = (
    Policy("`sd3`", "sd3", "short", 77, 77, 77),
    Policy("`sd3`, T5 at 256", "sd3", "short", 256, 77, 256),
    Policy("`compact`, 25 tokens on average", "compact", "short", 256, 25, 25),
    Policy("`compact`, 60 tokens", "compact", "medium", 256, 60, 60),
    Policy("`compact`, 120 tokens", "compact", "long", 256, 77, 120),
)


def cost_table(gpu: Mapping[str, Any] | None) -> str:
    """The README's table.

    Args:
        gpu: Results at full size on a GPU, if there are any.
    """
    lines = [
        "| a billion captions | captions/s, bound | measured | GPU-hours, bound | measured | TB stored |",
        "|---|---|---|---|---|---|",
    ]
    for policy in POLICIES:
        measured = None if gpu is None else _measured(gpu["rows"], policy)
        rate = "not yet" if measured is None else f"{measured:,.0f}"
        hours = "not yet" if measured is None else f"{gpu_hours(measured):,.0f}"
        lines.append(
            f"| {policy.name} | {policy.bound:,.0f} | {rate} | {gpu_hours(policy.bound):,.0f} | {hours} | "
            f"{_BILLION * policy.stored_bytes / 1e12:,.0f} |"
        )
    found = "No GPU was measured yet." if gpu is None else f"Measured on {gpu['machine']}, {gpu['date']}."
    text = (
        f"{found} The bound is arithmetic, not a measurement: a GPU that does nothing but bfloat16 matrix products at "
        f"{PEAK_FLOPS / 1e12:.0f} TFLOP/s, an H200's measured rate, with no time for attention or anything else. TB "
        "are arithmetic too: bytes of the stored tensors, times the 0.69 that ZSTD leaves of real hidden states."
    )
    return "\n".join([*lines, "", *textwrap.wrap(text, 125)])


def gpu_hours(rate: float) -> float:
    """Of a billion captions at so many a second."""
    return _BILLION / rate / 3600


def _measured(rows: Sequence[Mapping[str, Any]], policy: Policy) -> float | None:
    wanted = (policy.engine, policy.captions, policy.t5_tokens)
    found = [row for row in rows if (row["engine"], row["captions"], row["t5_tokens"]) == wanted]
    return float(found[-1]["captions_per_second"]) if found else None

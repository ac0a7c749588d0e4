"""A profile of the engine's windows: kernels by time, launches, and how long the device has nothing to do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.encode.captions import captions_of
from benchmarks.encode.models import OurEncoders, caption_tokenizer, random_models
from benchmarks.encode.ours import windows_of
from benchmarks.encode.sizes import CLIP_TOKENS, SIZES, T5_TOKENS
from benchmarks.encode.timing import seconds_of, synchronize
from benchmarks.gpu.result import Goal
from benchmarks.gpu.section import Context
from pipeline.engine import EncodeEngine
from pipeline.engine_settings import CPU_SETTINGS, GPU_SETTINGS
from pipeline.process_settings import apply_process_settings
from pipeline.repeated_captions import RepeatedCaptions
from pipeline.windows import Window
from schemas.identity import Padding

_NUM_WINDOWS = 2
_NUM_KERNELS = 20
_MAX_TRACE_BYTES = 8 * 1024**2
_KINDS = (
    ("attention", re.compile(r"attention|flash|fmha|sdpa|mha_|softmax", re.IGNORECASE)),
    (
        "products",
        re.compile(r"gemm|nvjet|cutlass|cublas|xmma|splitk|aten::(add)?mm|aten::linear|scaled_mm", re.IGNORECASE),
    ),
    ("copies", re.compile(r"memcpy|memset|copy_|aten::(copy|_to_copy|contiguous|clone|pin)", re.IGNORECASE)),
)
_OTHER = "elementwise and norms"


def run(context: Context) -> None:
    """Two windows of each policy, after as many that warm up and as many that are timed."""
    apply_process_settings(context.cores)
    device = torch.device(context.device)
    size, settings = SIZES[context.sizes.real], GPU_SETTINGS if device.type == "cuda" else CPU_SETTINGS
    ours = OurEncoders(random_models(size, device, torch.bfloat16), take_over=True)
    policies: tuple[tuple[str, Padding, int], ...] = (
        ("sd3", "max_length", CLIP_TOKENS),
        ("compact", "none", T5_TOKENS),
    )
    for policy, padding, tokens in policies:
        encoders = ours.encoders(padding, tokens)
        count = size.num_captions if context.is_tiny else 4096
        captions = captions_of("short", count, caption_tokenizer("t5", T5_TOKENS))
        windows = windows_of(captions, encoders, settings)[:_NUM_WINDOWS]
        engine = EncodeEngine(encoders, settings.batch_tokens)
        _encode(engine, windows, device)
        seconds = seconds_of(partial(_encode, engine, windows, device), device)
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
        with profile(activities=activities) as profiler:
            _encode(engine, windows, device)
        _record(context, policy, profiler, len(windows), seconds)
        _export(context, policy, profiler)


def _encode(engine: EncodeEngine, windows: Sequence[Window], device: torch.device) -> None:
    for _ in engine.encode(windows, RepeatedCaptions((), 0)):
        pass
    synchronize(device)


def _record(context: Context, policy: str, profiler: profile, num_windows: int, seconds: float) -> None:
    is_cuda = context.device == "cuda"
    # On a GPU what ran on it; on a CPU torch's operations, so that the same code runs.
    events = [
        (event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if (event.device_type == DeviceType.CUDA if is_cuda else event.cpu_parent is None)
        and not event.is_user_annotation
    ]
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for name, start, end in events:
        times[name] += end - start
        counts[name] += 1
        kinds[_kind(name)] += end - start
    busy, span = busy_and_span([(start, end) for _, start, end in events])
    total = sum(times.values())
    result = context.result
    result.check(f"{policy}: the profile has kernels", total > 0, f"{len(events)} launches")
    launches, idle = len(events) / num_windows, 1 - busy / span if span else 0.0
    result.facts[policy] = {
        "launches_per_window": launches,
        "idle_share": idle,
        "milliseconds_per_window": 1e3 * seconds / num_windows,
        "profiled_milliseconds_per_window": span / 1e3 / num_windows,
        "share_by_kind": {kind: time / total for kind, time in kinds.most_common()},
        "kernels": [
            {"name": name, "share": time / total, "calls": counts[name]} for name, time in times.most_common(60)
        ],
    }
    result.goals.append(Goal(f"`{policy}`, device idle within two windows", idle, f"{idle:.1%}"))
    shares = ", ".join(f"{kind} {time / total:.1%}" for kind, time in kinds.most_common())
    result.note(
        "",
        f"`{policy}`: {1e3 * seconds / num_windows:,.1f} ms a window, {span / 1e3 / num_windows:,.1f} ms under the "
        f"profiler, which slows the host; {launches:,.0f} launches a window; idle {idle:.1%} of that time; {shares}.",
        "",
        "| kernel | share | calls | µs a call |",
        "|---|---|---|---|",
        *(
            f"| `{name[:90].replace('|', ' ')}` | {time / total:.1%} | {counts[name]} | {time / counts[name]:,.1f} |"
            for name, time in times.most_common(_NUM_KERNELS)
        ),
    )


def busy_and_span(intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The length of the union of intervals, and from the first start to the last end."""
    if not intervals:
        return 0.0, 0.0
    ordered = sorted(intervals)
    busy, reached = 0.0, ordered[0][0]
    for start, end in ordered:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy, reached - ordered[0][0]


def _kind(name: str) -> str:
    return next((kind for kind, pattern in _KINDS if pattern.search(name)), _OTHER)


def _export(context: Context, policy: str, profiler: profile) -> None:
    """The trace for chrome://tracing, unless it is too large."""
    path: Path = context.output / f"profile-{policy}.json.gz"
    profiler.export_chrome_trace(str(path))
    size = path.stat().st_size
    if size > _MAX_TRACE_BYTES:
        path.unlink()
        context.result.note(f"The trace of `{policy}` has {size / 1e6:.0f} MB and is not kept.")

"""Values of the encoders' operations beside float64, over awkward lengths and widths, and what attention takes.

Every implementation is compared: torch's, and on CUDA the Triton kernels. The reference is computed caption by caption,
from the inputs as they are after rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.encode.sizes import CLIP_TOKENS, SIZES, T5_TOKENS, Tower
from benchmarks.gpu.section import Context
from pipeline.encoders.attention import DistanceBias
from pipeline.encoders.operations import (
    TORCH_OPERATIONS,
    Operations,
    TowerSizes,
    choose_operations,
    example_batch,
    triton_operations,
)
from pipeline.encoders.packed import PackedTokens, pack_tokens
from pipeline.process_settings import apply_process_settings
from schemas.identity import ENCODER_NAMES, Padding

_LENGTHS: Mapping[str, Sequence[int]] = {
    "one token": [1],
    "padded": [77] * 5,
    "long and padded": [256] * 3,
    "every length": range(1, 81),
    "around blocks": [1, 63, 64, 65, 127, 128, 129, 1, 255, 256, 2],
    "many short": [2] * 70 + [3] * 41,
}
_FILLING = (0, 61)
_NUM_ROWS = (1, 2, 63, 257)
_ATTENTION_ERROR = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
_ELEMENTWISE_ERROR = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Relative error of a row; bfloat16 rounds by up to 4e-3, and torch's composed operations do so more than once."""
_QUANTIZED_ERROR = 0.07
"""float8 (e4m3) rounds by up to 1/16."""
_PADDINGS: tuple[Padding, ...] = ("max_length", "none")
_REPETITIONS = 20


def run(context: Context) -> None:
    """All operations of all implementations, then the choice for each tower."""
    apply_process_settings(context.cores)
    torch.backends.cuda.matmul.allow_tf32 = False
    towers, device = SIZES[context.sizes.real].towers, torch.device(context.device)
    implementations = [TORCH_OPERATIONS]
    if device.type == "cuda":
        implementations.append(triton_operations())
    else:
        context.result.note("Not run, since they need CUDA: the Triton kernels.")
    for operations in implementations:
        for dtype in (torch.float32, torch.bfloat16):
            _check_attention(context, operations, towers, dtype)
            _check_elementwise(context, operations, towers, dtype)
    if device.type == "cuda":
        _record_choices(context, towers, implementations)


@dataclass(frozen=True)
class _Batch:
    """Random states of a packed batch.

    Attributes:
        packed: On the device.
        qkv_N3HC: Queries, keys and values.
        bias: By distance.
        table_HS: The same, float64.
    """

    packed: PackedTokens
    qkv_N3HC: torch.Tensor
    bias: DistanceBias
    table_HS: torch.Tensor


def _batches(tower: Tower, dtype: torch.dtype, device: torch.device) -> Iterator[_Batch]:
    random = np.random.default_rng(0)
    generator = torch.Generator(device).manual_seed(0)
    longest = max(map(max, _LENGTHS.values()))
    table_HS = torch.randn(tower.heads, 2 * longest - 1, generator=generator, device=device).to(dtype)
    positions = torch.arange(longest, device=device)
    bias = DistanceBias(table_HS[:, positions[None] - positions[:, None] + longest - 1])
    for lengths in _LENGTHS.values():
        for filling in _FILLING:
            # EOS anywhere, as pads may follow it.
            rows = [np.eye(1, length, random.integers(length), dtype=np.int64)[0] for length in lengths]
            packed = pack_tokens(rows, eos_id=1, num_computed=sum(lengths) + filling).to(device)
            shape = (len(packed.token_ids), 3, tower.heads, tower.head_width)
            states = torch.randn(shape, generator=generator, device=device).to(dtype)
            yield _Batch(packed, states, bias, table_HS.double())


def _check_attention(context: Context, operations: Operations, towers: Mapping[str, Tower], dtype: torch.dtype) -> None:
    attention = operations.attention
    for name, tower in towers.items():
        worst: dict[str, float] = {}
        for batch in _batches(tower, dtype, torch.device(context.device)):
            packed, states, scale = batch.packed, batch.qkv_N3HC, tower.head_width**-0.5
            q_FHC, kv_N2HC = states[packed.eos, 0].contiguous(), states[:, 1:].contiguous()
            causal, biased = _plain_attention(batch, scale, None), _plain_attention(batch, scale, batch.table_HS)
            within, end = partial(_poisoned, attention.within_captions, states, packed, scale=scale), packed.num_tokens
            found = {
                "causal": (within(bias=None)[:end], causal),
                "with T5's bias": (within(bias=batch.bias)[:end], biased),
                "from EOS": (_poisoned(attention.from_eos, q_FHC, kv_N2HC, packed)[: len(q_FHC)], causal[packed.eos]),
            }
            for kind, (values, exact) in found.items():
                worst[kind] = max(worst.get(kind, 0.0), _error(values, exact))
        for kind, error in worst.items():
            allowed = _ATTENTION_ERROR[dtype]
            what = f"{attention.name} attention, {kind}, {name}'s heads, {_name(dtype)}"
            context.result.check(what, error <= allowed, f"{error:.1e} of {allowed:.0e}")


def _plain_attention(batch: _Batch, scale: float, table_HS: torch.Tensor | None) -> torch.Tensor:
    """float64 [tokens of captions, H * C], one caption after the other; causal unless there is a bias by distance."""
    found, start = [], 0
    for run in batch.packed.runs:
        for _ in range(run.num_rows):
            q, k, v = batch.qkv_N3HC[start : start + run.length].double().permute(1, 2, 0, 3)
            scores = q @ k.transpose(-1, -2) * scale
            places = torch.arange(run.length, device=q.device)
            distances = places[None] - places[:, None]
            if table_HS is None:
                scores = scores.masked_fill(distances > 0, float("-inf"))
            else:
                scores = scores + table_HS[:, distances + table_HS.shape[1] // 2]
            found.append((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
            start += run.length
    return torch.cat(found)


def _check_elementwise(
    context: Context, operations: Operations, towers: Mapping[str, Tower], dtype: torch.dtype
) -> None:
    device = torch.device(context.device)
    generator = torch.Generator(device).manual_seed(0)
    worst: dict[str, float] = {}

    def states(*shape: int) -> torch.Tensor:
        # Some values are large, as those of real hidden states are.
        values = torch.randn(shape, generator=generator, device=device)
        return (values * torch.where(torch.rand(shape, generator=generator, device=device) < 0.01, 20, 1)).to(dtype)

    def compare(name: str, found: torch.Tensor, exact: torch.Tensor) -> None:
        worst[name] = max(worst.get(name, 0.0), _error(found, exact))

    for rows in _NUM_ROWS:
        for tower in towers.values():
            hidden, update, weight, bias = (
                states(rows, tower.width),
                states(rows, tower.width),
                *states(2, tower.width),
            )
            weight, bias, wide = weight.contiguous(), bias.contiguous(), states(rows, tower.inner)
            both = states(rows, 2 * tower.inner)
            normed = _poisoned(operations.rms_norm, hidden, weight, 1e-6)
            compare("rms_norm", normed, F.rms_norm(hidden.double(), weight.shape, weight.double(), 1e-6))
            total, normed = operations.add_layer_norm(hidden, update, weight, bias, 1e-5)
            compare("sum of add_layer_norm", total, hidden.double() + update.double())
            exact = F.layer_norm((hidden + update).double(), weight.shape, weight.double(), bias.double(), 1e-5)
            compare("add_layer_norm", normed, exact)
            exact = wide.double() * torch.sigmoid(1.702 * wide.double())
            compare("quick_gelu", _poisoned(operations.quick_gelu, wide), exact)
            gate, value = both.double().chunk(2, dim=-1)
            exact = F.gelu(gate, approximate="tanh") * value
            compare("gated_gelu", _poisoned(operations.gated_gelu, both), exact)
            quantized, scales = operations.quantize_rows(wide)
            compare("quantize_rows", quantized.float() * scales, wide.double())
    for name, error in worst.items():
        allowed = _QUANTIZED_ERROR if name == "quantize_rows" else _ELEMENTWISE_ERROR[dtype]
        what = f"{operations.name} {name}, {_name(dtype)}"
        context.result.check(what, error <= allowed, f"{error:.1e} of {allowed:.0e}")


def _record_choices(context: Context, towers: Mapping[str, Tower], implementations: Sequence[Operations]) -> None:
    """What `load_encoder` would choose, and how long one layer's attention takes."""
    device = torch.device(context.device)
    lines = ["| tower | padding | chosen | tokens | µs a layer |", "|---|---|---|---|---|"]
    for name in ENCODER_NAMES:
        for padding in _PADDINGS:
            sizes = _tower_sizes(name, towers[name], padding)
            chosen = choose_operations(sizes, dtype=torch.bfloat16, device=device, in_float8=False)
            packed = example_batch(sizes).to(device)
            shape = (len(packed.token_ids), 3, sizes.heads, sizes.channels)
            states = torch.randn(shape, device=device, dtype=torch.bfloat16)
            bias = None
            if not sizes.is_causal:
                bias = DistanceBias(states.new_zeros(sizes.heads, sizes.max_tokens, sizes.max_tokens))
            times = {
                one.attention.name: _microseconds(
                    partial(one.attention.within_captions, states, packed, bias=bias, scale=0.125)
                )
                for one in implementations
            }
            spelled = ", ".join(f"{which} {time:,.0f}" for which, time in times.items())
            lines.append(f"| {name} | {padding} | {chosen.describe()} | {len(packed.token_ids):,} | {spelled} |")
            context.result.check(
                f"{name}, {padding}: the elementwise kernels are used", chosen.name == "triton", chosen.describe()
            )
            context.result.facts[f"{name} {padding}"] = {"chosen": chosen.describe(), "microseconds": times}
    context.result.note(*lines)


def _tower_sizes(name: str, tower: Tower, padding: Padding) -> TowerSizes:
    return TowerSizes(
        width=tower.width,
        mlp_width=tower.inner,
        heads=tower.heads,
        channels=tower.head_width,
        max_tokens=T5_TOKENS if name == "t5" and padding == "none" else CLIP_TOKENS,
        padding=padding,
        is_causal=name != "t5",
    )


def _microseconds(call: Callable[[], object]) -> float:
    """The median, without the launch's own time where the device is the slower of the two."""
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(_REPETITIONS)]
    for _ in range(3):
        call()
    for start, end in events:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return sorted(1e3 * start.elapsed_time(end) for start, end in events)[_REPETITIONS // 2]


@torch.inference_mode()
def _poisoned(function: Callable[..., torch.Tensor], *arguments: object, **named: object) -> torch.Tensor:
    """Calls with NaN in the memory that the output will probably have: what is not written shows."""
    like = function(*arguments, **named)
    poison = torch.full_like(like, float("nan"))
    del like, poison
    return function(*arguments, **named)


def _error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest relative error (Euclidean norm) of a row; infinity where shapes differ or a value is NaN."""
    if found.shape != exact.shape:
        return float("inf")
    error = (found.double() - exact).norm(dim=-1) / exact.norm(dim=-1)
    return float("inf") if bool(error.isnan().any()) else float(error.max())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

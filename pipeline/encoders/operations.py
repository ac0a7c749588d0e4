"""Operations that the towers are built from: torch's own, and Triton kernels on CUDA where they give the same values.

An encoder's products are library calls. What is between them costs memory traffic and launches, so on CUDA it is fused:
activations, gates, norms with the residual sum before them, and attention of a whole batch in one launch.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.encoders.attention import Attention, DistanceBias, TorchAttention, TritonAttention
from pipeline.encoders.packed import PackedTokens, pack_tokens
from schemas.identity import Padding

_log = logging.getLogger(__name__)

Activation = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Operations:
    """One implementation of each operation. Tensors are [N, D], contiguous, in the compute dtype.

    Attributes:
        name: Of the elementwise operations, for the record of a run.
        attention: Over packed captions.
        rms_norm: Of states, weight [D] and eps.
        add_layer_norm: Of residual, update, weight [D], bias [D] and eps: the sum, and its LayerNorm.
        quick_gelu: x * sigmoid(1.702 * x).
        gated_gelu: [N, 2 * D] to [N, D], GELU's tanh approximation of the first half times the second.
        quantize_rows: To float8 (e4m3), and the float32 [N, 1] to multiply it by; the largest of a row becomes 448.
    """

    name: str
    attention: Attention
    rms_norm: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
    add_layer_norm: Callable[
        [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]
    ]
    quick_gelu: Activation
    gated_gelu: Activation
    quantize_rows: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

    def describe(self) -> str:
        """Names of both implementations, for the record of a run."""
        return f"attention {self.attention.name}, elementwise {self.name}"


def _rms_norm(hidden_ND: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return F.rms_norm(hidden_ND, weight.shape, weight, eps)


def _add_layer_norm(
    residual_ND: torch.Tensor, update_ND: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    sum_ND = residual_ND + update_ND
    return sum_ND, F.layer_norm(sum_ND, weight.shape, weight, bias, eps)


def _quick_gelu(hidden_ND: torch.Tensor) -> torch.Tensor:
    return hidden_ND * torch.sigmoid(1.702 * hidden_ND)


def _gated_gelu(both_N2D: torch.Tensor) -> torch.Tensor:
    gate_ND, value_ND = both_N2D.chunk(2, dim=-1)
    return F.gelu(gate_ND, approximate="tanh") * value_ND


def _quantize_rows(values_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = torch.float8_e4m3fn
    largest_N1 = values_ND.abs().amax(dim=1, keepdim=True).float()
    scale_N1 = largest_N1.clamp(min=1e-12) / torch.finfo(dtype).max
    return (values_ND.float() / scale_N1).to(dtype), scale_N1


TORCH_OPERATIONS = Operations(
    "torch", TorchAttention(), _rms_norm, _add_layer_norm, _quick_gelu, _gated_gelu, _quantize_rows
)


def triton_operations() -> Operations:
    """Our kernels.

    Raises:
        ImportError: torch came without Triton.
    """
    from pipeline.encoders import kernels

    return Operations(
        "triton",
        TritonAttention(),
        kernels.rms_norm,
        kernels.add_layer_norm,
        kernels.quick_gelu,
        kernels.gated_gelu,
        kernels.quantize_rows,
    )


@dataclass(frozen=True)
class TowerSizes:
    """Sizes that decide which kernels are compiled for a tower, and which attention is fastest.

    Attributes:
        width: D.
        mlp_width: Between the MLP's two products.
        heads: H.
        channels: C, of a head.
        max_tokens: Of the longest caption.
        padding: Whether all captions are that long.
        is_causal: Whether attention is causal; else it has a bias by distance.
    """

    width: int
    mlp_width: int
    heads: int
    channels: int
    max_tokens: int
    padding: Padding
    is_causal: bool


def choose_operations(sizes: TowerSizes, *, dtype: torch.dtype, device: torch.device, in_float8: bool) -> Operations:
    """Torch's operations, or on CUDA the Triton kernels that give the same values, and the attention that is faster.

    Every kernel is compiled and compared with torch's operations here. If one fails or gives other values, torch's are
    used, with a warning. Attention is timed on a batch like those to come; torch's is chosen only if it is a tenth
    faster, so that equal devices choose alike.

    Args:
        sizes: Of the tower.
        dtype: Compute dtype of everything but products in float8.
        device: Of the tower.
        in_float8: Whether inputs of products are quantized.
    """
    if device.type != "cuda":
        return TORCH_OPERATIONS
    return fastest_operations(sizes, dtype=dtype, device=device, in_float8=in_float8)


def fastest_operations(sizes: TowerSizes, *, dtype: torch.dtype, device: torch.device, in_float8: bool) -> Operations:
    """What `choose_operations` finds on CUDA; elsewhere the kernels run in Triton's interpreter, if that is on."""
    try:
        fused = triton_operations()
        _require_same_elementwise(fused, sizes, dtype, device, in_float8=in_float8)
    except Exception as error:  # compilers raise errors of many kinds
        _warn("elementwise operations", error)
        fused = TORCH_OPERATIONS
    return dataclasses.replace(fused, attention=_choose_attention(sizes, dtype, device))


def _choose_attention(sizes: TowerSizes, dtype: torch.dtype, device: torch.device) -> Attention:
    example = _AttentionExample(sizes, dtype, device)
    plain = TORCH_OPERATIONS.attention
    try:
        fused = TritonAttention()
        if not fused.supports(sizes.channels):
            return plain
        example.require_same(fused, plain)
    except Exception as error:  # compilers raise errors of many kinds
        _warn("attention", error)
        return plain
    seconds = {attention.name: example.seconds(attention) for attention in (fused, plain)}
    _log.info("attention of %d heads over %d tokens: %s", sizes.heads, example.num_tokens, seconds)
    return plain if seconds[plain.name] < _CLEARLY_FASTER * seconds[fused.name] else fused


_CLEARLY_FASTER = 0.9
_EXAMPLE_TOKENS = 8192
_REPETITIONS = 5


class _AttentionExample:
    """A batch of random states, of captions as long as those that will come."""

    def __init__(self, sizes: TowerSizes, dtype: torch.dtype, device: torch.device) -> None:
        random = torch.Generator(device).manual_seed(0)
        self._device = device
        self._packed = example_batch(sizes).to(device)
        self.num_tokens = len(self._packed.token_ids)
        shape = (self.num_tokens, 3, sizes.heads, sizes.channels)
        self._qkv_N3HC = torch.randn(shape, generator=random, device=device).to(dtype)
        self._bias, self._scale = None, sizes.channels**-0.5
        if not sizes.is_causal:
            positions = torch.arange(sizes.max_tokens, device=device)
            distances_LL = (positions[None] - positions[:, None]) + sizes.max_tokens - 1
            table_HS = torch.randn(sizes.heads, 2 * sizes.max_tokens - 1, generator=random, device=device).to(dtype)
            self._bias, self._scale = DistanceBias(table_HS[:, distances_LL]), 1.0

    def require_same(self, found: Attention, expected: Attention) -> None:
        """Compares every output.

        Raises:
            ValueError: They differ by more than rounding.
        """
        _require_close("attention", self._within(found), self._within(expected))
        if self._bias is None:
            _require_close("attention from EOS", self._from_eos(found), self._from_eos(expected))

    def seconds(self, attention: Attention) -> float:
        """Of one layer's call, the median."""
        found = []
        for _ in range(_REPETITIONS):
            self._synchronize()
            started = time.perf_counter()
            self._within(attention)
            self._synchronize()
            found.append(time.perf_counter() - started)
        return sorted(found)[_REPETITIONS // 2]

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    @torch.inference_mode()
    def _within(self, attention: Attention) -> torch.Tensor:
        return attention.within_captions(self._qkv_N3HC, self._packed, bias=self._bias, scale=self._scale)

    @torch.inference_mode()
    def _from_eos(self, attention: Attention) -> torch.Tensor:
        q_FHC = self._qkv_N3HC[self._packed.eos, 0].contiguous()
        return attention.from_eos(q_FHC, self._qkv_N3HC[:, 1:].contiguous(), self._packed)


def example_batch(sizes: TowerSizes) -> PackedTokens:
    """A batch of 8,192 tokens, the last ones filling it up, on the CPU.

    Under padding "none", lengths are spread evenly over a logarithmic scale, longest first, as real ones roughly are.
    """
    room = max(_EXAMPLE_TOKENS, 2 * sizes.max_tokens) - 1
    if sizes.padding == "max_length":
        lengths = np.full(room // sizes.max_tokens, sizes.max_tokens)
    else:
        spread = np.geomspace(min(4, sizes.max_tokens), sizes.max_tokens, room).astype(np.int64)
        taken = np.random.default_rng(0).permutation(spread)
        lengths = np.sort(taken[: np.searchsorted(np.cumsum(taken), room, side="right")])[::-1]
    rows = [np.r_[np.zeros(length - 1, np.int64), 1] for length in lengths]
    return pack_tokens(rows, eos_id=1, num_computed=room + 1)


def _require_same_elementwise(
    fused: Operations, sizes: TowerSizes, dtype: torch.dtype, device: torch.device, *, in_float8: bool
) -> None:
    random, plain = torch.Generator(device).manual_seed(0), TORCH_OPERATIONS

    def states(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, device=device).to(dtype)

    hidden_ND, update_ND, weight, bias = (states(64, sizes.width), states(64, sizes.width), *states(2, sizes.width))
    wide_NM, both_N2M = states(64, sizes.mlp_width), states(64, 2 * sizes.mlp_width)
    with torch.inference_mode():
        if sizes.is_causal:
            arguments = (hidden_ND, update_ND, weight.contiguous(), bias.contiguous(), 1e-5)
            pairs = zip(fused.add_layer_norm(*arguments), plain.add_layer_norm(*arguments), strict=True)
            for found, expected in pairs:
                _require_close("add_layer_norm", found, expected)
            _require_close("quick_gelu", fused.quick_gelu(wide_NM), plain.quick_gelu(wide_NM))
            return
        _require_close("rms_norm", fused.rms_norm(hidden_ND, weight, 1e-6), plain.rms_norm(hidden_ND, weight, 1e-6))
        _require_close("gated_gelu", fused.gated_gelu(both_N2M), plain.gated_gelu(both_N2M))
        for values_ND in (hidden_ND, wide_NM) if in_float8 else ():
            (found8, scale), (expected8, expected_scale) = (
                fused.quantize_rows(values_ND),
                plain.quantize_rows(values_ND),
            )
            _require_close("quantize_rows", found8.float() * scale, expected8.float() * expected_scale)


_RELATIVE_ERROR = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""Of all of an output's values together; bfloat16 has 8 bits, and torch rounds more often."""


def _require_close(what: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    error = float((found.float() - expected.float()).norm() / expected.float().norm())
    # Not `error > ...`: a NaN is no less wrong.
    if found.shape != expected.shape or not error <= _RELATIVE_ERROR[expected.dtype]:
        raise ValueError(f"{what}: relative error {error:.1e} to torch's")


def _warn(what: str, error: Exception) -> None:
    _log.warning("torch's %s are used in place of Triton kernels, slower: %s: %s", what, type(error).__name__, error)

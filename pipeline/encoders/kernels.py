"""Triton kernels for CUDA: attention over packed captions, and the elementwise work between an encoder's products.

Widths and strides are compile-time constants and numbers of rows are not, so that each kernel is compiled once for a
model, reads and writes 128 bits at a time, and never again when a batch has another size. Arithmetic is in float32.

Letters of shapes: N rows, D width, F queries, H heads, C channels of a head.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)
_GELU_SCALE = tl.constexpr(1.5957691216057308)
"""2 * sqrt(2 / pi): GELU's tanh(u) is 2 * sigmoid(2 * u) - 1, which takes one exponential."""
_GELU_CUBIC = tl.constexpr(0.044715)
_QUICK_GELU_SCALE = tl.constexpr(1.702)
_FLOAT8_MAX = tl.constexpr(448.0)

_QUERY_BLOCK = 64
_KEY_BLOCK = 64
_COLUMN_BLOCK = 1024
_MIN_CHANNELS = 16
"""Of a head: the smallest inner dimension of `tl.dot`."""
_OPTIONS = {"enable_fp_fusion": True}
"""Stated since the default of Triton 3.10 differs: sums of products are rounded once."""


def supports_heads(channels: int) -> bool:
    """Whether `attention` takes heads of this many channels: powers of two from 16 on."""
    return channels >= _MIN_CHANNELS and channels & (channels - 1) == 0


def attention(
    q_FHC: torch.Tensor,
    k_NHC: torch.Tensor,
    v_NHC: torch.Tensor,
    starts: torch.Tensor,
    stops: torch.Tensor,
    *,
    scale: float,
    bias_HS: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of each query to one range of keys, in one launch whatever the ranges.

    A program computes 64 neighbouring queries of one head and walks over the keys between the least start and the
    largest stop among them, so ranges of neighbouring queries should be neighbours.

    Args:
        q_FHC: Queries; rows of [H, C] are contiguous, as for keys and values.
        k_NHC: Keys.
        v_NHC: Values.
        starts: int32 [F], the first key of each query's range.
        stops: int32 [F], the key after its last. Empty ranges should lie where their neighbours' do.
        scale: Of the scores.
        bias_HS: Added to the scaled scores by signed distance, key minus query, of which S // 2 is the middle; query
            and key are then numbers of the same tokens. Contiguous.

    Returns:
        [F, H, C] of the queries' dtype; zero for an empty range.
    """
    num_queries, heads, channels = q_FHC.shape
    assert all(tensor.stride()[1:] == (channels, 1) for tensor in (q_FHC, k_NHC, v_NHC))
    assert k_NHC.stride() == v_NHC.stride()
    out_FHC = torch.empty(q_FHC.shape, dtype=q_FHC.dtype, device=q_FHC.device)
    _attention_kernel[(triton.cdiv(num_queries, _QUERY_BLOCK), heads)](
        q_FHC,
        k_NHC,
        v_NHC,
        out_FHC,
        starts,
        stops,
        q_FHC if bias_HS is None else bias_HS,
        num_queries,
        SCALE=scale,
        Q_STRIDE=q_FHC.stride(0),
        KV_STRIDE=k_NHC.stride(0),
        OUT_STRIDE=heads * channels,
        CHANNELS=channels,
        NUM_DISTANCES=0 if bias_HS is None else bias_HS.shape[1],
        PRECISION="ieee" if q_FHC.dtype == torch.float32 else "tf32",
        QUERY_BLOCK=_QUERY_BLOCK,
        KEY_BLOCK=_KEY_BLOCK,
        num_warps=4,
        **_OPTIONS,
    )
    return out_FHC


@triton.jit(do_not_specialize=["num_queries"])
def _attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    starts_ptr,
    stops_ptr,
    bias_ptr,
    num_queries,
    SCALE: tl.constexpr,
    Q_STRIDE: tl.constexpr,
    KV_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    NUM_DISTANCES: tl.constexpr,
    PRECISION: tl.constexpr,
    QUERY_BLOCK: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
):
    head = tl.program_id(1)
    queries = tl.program_id(0) * QUERY_BLOCK + tl.arange(0, QUERY_BLOCK)
    channels = head * CHANNELS + tl.arange(0, CHANNELS)
    there = queries < num_queries
    # Queries past the end take no part in the least start and the largest stop.
    starts = tl.load(starts_ptr + queries, mask=there, other=2147483647)
    stops = tl.load(stops_ptr + queries, mask=there, other=0)
    q = tl.load(q_ptr + queries.to(tl.int64)[:, None] * Q_STRIDE + channels[None, :], mask=there[:, None], other=0.0)
    largest = tl.full([QUERY_BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([QUERY_BLOCK], tl.float32)
    mixed = tl.zeros([QUERY_BLOCK, CHANNELS], tl.float32)
    end = tl.max(stops, axis=0)
    for begin in range(tl.min(starts, axis=0), end, KEY_BLOCK):
        keys = begin + tl.arange(0, KEY_BLOCK)
        rows = keys.to(tl.int64) * KV_STRIDE
        k = tl.load(k_ptr + rows[None, :] + channels[:, None], mask=keys[None, :] < end, other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION) * SCALE
        seen = (keys[None, :] >= starts[:, None]) & (keys[None, :] < stops[:, None])
        if NUM_DISTANCES > 0:
            place = head * NUM_DISTANCES + NUM_DISTANCES // 2 + keys[None, :] - queries[:, None]
            scores += tl.load(bias_ptr + place, mask=seen, other=0.0).to(tl.float32)
        scores = tl.where(seen, scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, axis=1))
        # Of a query that has seen nothing yet it stays minus infinity, which must not be subtracted from itself.
        base = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        weights = tl.exp2((scores - base[:, None]) * _LOG2_E)
        faded = tl.exp2((largest - base) * _LOG2_E)
        v = tl.load(v_ptr + rows[:, None] + channels[None, :], mask=keys[:, None] < end, other=0.0)
        total = total * faded + tl.sum(weights, axis=1)
        mixed = mixed * faded[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        largest = new_largest
    mixed = mixed / tl.where(total == 0.0, 1.0, total)[:, None]
    out = out_ptr + queries.to(tl.int64)[:, None] * OUT_STRIDE + channels[None, :]
    tl.store(out, mixed.to(out_ptr.dtype.element_ty), mask=there[:, None])


def rms_norm(hidden_ND: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`torch.nn.functional.rms_norm` over the last dimension.

    Args:
        hidden_ND: Contiguous.
        weight: [D].
        eps: Added to the mean square.
    """
    num_rows, width = hidden_ND.shape
    out_ND = torch.empty_like(hidden_ND)
    block = triton.next_power_of_2(width)
    _rms_norm_kernel[(num_rows,)](
        hidden_ND, weight, out_ND, EPS=eps, WIDTH=width, BLOCK=block, num_warps=_row_warps(block), **_OPTIONS
    )
    return out_ND


@triton.jit
def _rms_norm_kernel(hidden_ptr, weight_ptr, out_ptr, EPS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    there = columns < WIDTH
    places = tl.program_id(0).to(tl.int64) * WIDTH + columns
    hidden = tl.load(hidden_ptr + places, mask=there, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(hidden * hidden, axis=0) / WIDTH + EPS)
    weight = tl.load(weight_ptr + columns, mask=there, other=0.0).to(tl.float32)
    tl.store(out_ptr + places, (hidden * scale * weight).to(out_ptr.dtype.element_ty), mask=there)


def add_layer_norm(
    residual_ND: torch.Tensor, update_ND: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of two, and `torch.nn.functional.layer_norm` of it over the last dimension.

    Args:
        residual_ND: Contiguous.
        update_ND: Contiguous.
        weight: [D].
        bias: [D].
        eps: Added to the variance.

    Returns:
        [N, D] each. The sum is rounded to the tensors' dtype before it is normed, as without this kernel.
    """
    num_rows, width = residual_ND.shape
    sum_ND, normed_ND = torch.empty_like(residual_ND), torch.empty_like(residual_ND)
    block = triton.next_power_of_2(width)
    _add_layer_norm_kernel[(num_rows,)](
        residual_ND,
        update_ND,
        weight,
        bias,
        sum_ND,
        normed_ND,
        EPS=eps,
        WIDTH=width,
        BLOCK=block,
        num_warps=_row_warps(block),
        **_OPTIONS,
    )
    return sum_ND, normed_ND


@triton.jit
def _add_layer_norm_kernel(
    residual_ptr,
    update_ptr,
    weight_ptr,
    bias_ptr,
    sum_ptr,
    normed_ptr,
    EPS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    columns = tl.arange(0, BLOCK)
    there = columns < WIDTH
    places = tl.program_id(0).to(tl.int64) * WIDTH + columns
    residual = tl.load(residual_ptr + places, mask=there, other=0.0).to(tl.float32)
    update = tl.load(update_ptr + places, mask=there, other=0.0).to(tl.float32)
    rounded = (residual + update).to(sum_ptr.dtype.element_ty)
    tl.store(sum_ptr + places, rounded, mask=there)
    hidden = rounded.to(tl.float32)
    centred = tl.where(there, hidden - tl.sum(hidden, axis=0) / WIDTH, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=0) / WIDTH + EPS)
    weight = tl.load(weight_ptr + columns, mask=there, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + columns, mask=there, other=0.0).to(tl.float32)
    tl.store(normed_ptr + places, (centred * scale * weight + bias).to(normed_ptr.dtype.element_ty), mask=there)


def gated_gelu(both_N2D: torch.Tensor) -> torch.Tensor:
    """GELU (its tanh approximation) of the first half of each row, times the second half: [N, 2 * D] to [N, D]."""
    num_rows, width = both_N2D.shape[0], both_N2D.shape[1] // 2
    out_ND = both_N2D.new_empty(num_rows, width)
    grid = (num_rows, triton.cdiv(width, _COLUMN_BLOCK))
    _gated_gelu_kernel[grid](both_N2D, out_ND, WIDTH=width, BLOCK=_COLUMN_BLOCK, num_warps=4, **_OPTIONS)
    return out_ND


@triton.jit
def _gated_gelu_kernel(both_ptr, out_ptr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = columns < WIDTH
    gate = tl.load(both_ptr + row * (2 * WIDTH) + columns, mask=there, other=0.0).to(tl.float32)
    value = tl.load(both_ptr + row * (2 * WIDTH) + WIDTH + columns, mask=there, other=0.0).to(tl.float32)
    gelu = gate * tl.sigmoid((gate + gate * gate * gate * _GELU_CUBIC) * _GELU_SCALE)
    tl.store(out_ptr + row * WIDTH + columns, (gelu * value).to(out_ptr.dtype.element_ty), mask=there)


def quick_gelu(hidden_ND: torch.Tensor) -> torch.Tensor:
    """`x * sigmoid(1.702 * x)`, CLIP-L's activation; contiguous [N, D]."""
    num_rows, width = hidden_ND.shape
    out_ND = torch.empty_like(hidden_ND)
    grid = (num_rows, triton.cdiv(width, _COLUMN_BLOCK))
    _quick_gelu_kernel[grid](hidden_ND, out_ND, WIDTH=width, BLOCK=_COLUMN_BLOCK, num_warps=4, **_OPTIONS)
    return out_ND


@triton.jit
def _quick_gelu_kernel(hidden_ptr, out_ptr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = columns < WIDTH
    places = tl.program_id(0).to(tl.int64) * WIDTH + columns
    hidden = tl.load(hidden_ptr + places, mask=there, other=0.0).to(tl.float32)
    tl.store(
        out_ptr + places, (hidden * tl.sigmoid(hidden * _QUICK_GELU_SCALE)).to(out_ptr.dtype.element_ty), mask=there
    )


def quantize_rows(values_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float8 (e4m3) of the same shape, and the scales it is to be multiplied by, float32 [N, 1]; contiguous."""
    num_rows, width = values_ND.shape
    out_ND = torch.empty(values_ND.shape, dtype=torch.float8_e4m3fn, device=values_ND.device)
    scales_N1 = torch.empty((num_rows, 1), dtype=torch.float32, device=values_ND.device)
    block = triton.next_power_of_2(width)
    _quantize_rows_kernel[(num_rows,)](
        values_ND, out_ND, scales_N1, WIDTH=width, BLOCK=block, num_warps=_row_warps(block), **_OPTIONS
    )
    return out_ND, scales_N1


@triton.jit
def _quantize_rows_kernel(values_ptr, out_ptr, scales_ptr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    there = columns < WIDTH
    places = tl.program_id(0).to(tl.int64) * WIDTH + columns
    values = tl.load(values_ptr + places, mask=there, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(values), axis=0), 1e-12) / _FLOAT8_MAX
    tl.store(scales_ptr + tl.program_id(0), scale)
    tl.store(out_ptr + places, (values / scale).to(out_ptr.dtype.element_ty), mask=there)


def _row_warps(block: int) -> int:
    """Warps of a program that holds a row: 16 elements a thread, two reads of 128 bits in bfloat16."""
    return max(1, min(16, block // (32 * 16)))

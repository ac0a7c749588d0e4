"""Our Triton kernels in Triton's interpreter, on the CPU; `test_kernels.py` runs this file with TRITON_INTERPRET=1.

The interpreter has no products of bfloat16, and rounds neither to it nor to float8 correctly: float16 stands for it.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from triton.runtime.interpreter import InterpretedFunction

from pipeline.encoders import kernels, operations
from pipeline.encoders.attention import DistanceBias, TorchAttention, TritonAttention
from pipeline.encoders.operations import TowerSizes, fastest_operations, triton_operations
from pipeline.encoders.packed import PackedTokens, pack_tokens
from tests.checkpoints import small_clip, small_t5, write_sd3
from tests.pipeline.encoders.encoding import load

DTYPES = [torch.float32, torch.float16]
SIZES = TowerSizes(width=96, mlp_width=200, heads=2, channels=16, max_tokens=70, padding="none", is_causal=False)


def test_the_interpreter_is_on() -> None:
    assert isinstance(kernels._attention_kernel, InterpretedFunction)


def states(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def batch(lengths: list[int], num_computed: int = 0) -> PackedTokens:
    """Captions whose EOS, id 1, is not always their last token."""
    rows = [np.r_[np.zeros(length - 1 - length // 3, int), np.ones(1 + length // 3, int)] for length in lengths]
    return pack_tokens(rows, eos_id=1, num_computed=num_computed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [[1], [64], [65, 65], [70, 3, 1, 1, 64, 20, 33, 2], [5] * 40])
@pytest.mark.parametrize("is_causal", [True, False])
def test_attention_is_torchs(dtype: torch.dtype, lengths: list[int], is_causal: bool) -> None:
    packed, (heads, channels) = batch(lengths, sum(lengths) + 70), (3, 16)
    qkv = states(len(packed.token_ids), 3, heads, channels, dtype=dtype)
    distance = torch.arange(70)[None] - torch.arange(70)[:, None] + 69
    bias = None if is_causal else DistanceBias(states(heads, 139, dtype=dtype, seed=1)[:, distance])
    found, expected = (
        attention.within_captions(qkv, packed, bias=bias, scale=0.3)
        for attention in (TritonAttention(), TorchAttention())
    )
    tolerance = 1e-5 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    assert expected[: packed.num_tokens].float().std() > 0.1
    assert not found[packed.num_tokens :].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_from_eos_is_torchs(dtype: torch.dtype) -> None:
    packed = batch([70, 70, 41, 7, 3, 1] + [2] * 70)
    num_captions = len(packed.eos)
    q, kv = states(96, 2, 16, dtype=dtype), states(len(packed.token_ids), 2, 2, 16, dtype=dtype, seed=1)
    found, expected = (attention.from_eos(q, kv, packed) for attention in (TritonAttention(), TorchAttention()))
    tolerance = 1e-5 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(found[:num_captions], expected[:num_captions], atol=tolerance, rtol=0)
    assert found.isfinite().all()


def test_large_scores_do_not_overflow() -> None:
    qkv = states(40, 3, 1, 16) * 40
    packed = batch([40])
    found, expected = (
        attention.within_captions(qkv, packed, bias=None, scale=1.0)
        for attention in (TritonAttention(), TorchAttention())
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [96, 1024, 1280])
def test_norms_are_torchs(dtype: torch.dtype, width: int) -> None:
    hidden, update = states(5, width, dtype=dtype), states(5, width, dtype=dtype, seed=1)
    weight, bias = states(2, width, dtype=dtype, seed=2)
    ulp = 1e-6 if dtype == torch.float32 else 2**-10
    expected = F.rms_norm(hidden, (width,), weight, 1e-6)
    torch.testing.assert_close(kernels.rms_norm(hidden, weight, 1e-6), expected, atol=1e-6, rtol=ulp)
    total, normed = kernels.add_layer_norm(hidden, update, weight, bias, 1e-5)
    assert torch.equal(total, hidden + update)
    expected = F.layer_norm(hidden + update, (width,), weight, bias, 1e-5)
    torch.testing.assert_close(normed, expected, atol=4 * ulp, rtol=4 * ulp)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 1024, 1400])
def test_activations_are_torchs(dtype: torch.dtype, width: int) -> None:
    both = 3 * states(3, 2 * width, dtype=dtype)
    both[0, :4] = torch.tensor([-40.0, 40.0, 0.0, -4.0])
    exact = both.float()
    ulp = 2e-6 if dtype == torch.float32 else 2**-11
    expected = F.gelu(exact[:, :width], approximate="tanh") * exact[:, width:]
    torch.testing.assert_close(kernels.gated_gelu(both).float(), expected, atol=2e-6, rtol=ulp)
    expected = exact * torch.sigmoid(1.702 * exact)
    torch.testing.assert_close(kernels.quick_gelu(both).float(), expected, atol=2e-6, rtol=ulp)


def test_rows_are_quantized_to_their_largest_value() -> None:
    # Values that float8 holds, times a power of two for each row: the interpreter does not round correctly.
    expected = states(20, 200).mul(100).clamp(-448, 448).to(torch.float8_e4m3fn)
    expected[:, 3] = 448
    expected[7] = 0
    powers_N1 = torch.logspace(-9, 10, 20, base=2)[:, None]
    found, scales = kernels.quantize_rows(expected.float() * powers_N1)
    assert found.dtype == torch.float8_e4m3fn
    assert torch.equal(found.float(), expected.float())
    powers_N1[7] = 1e-12 / 448
    torch.testing.assert_close(scales, powers_N1)


@pytest.mark.parametrize(
    ("name", "padding"), [("clip_l", "max_length"), ("clip_g", "none"), ("t5", "max_length"), ("t5", "none")]
)
def test_a_tower_of_kernels_gives_torchs_outputs(name: str, padding: str, tmp_path: Path) -> None:
    write_sd3(tmp_path, small_clip(1, width=64), small_clip(2, width=96, activation="gelu"), small_t5(3))
    plain = load(name, tmp_path, padding=padding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.encoders.load.choose_operations", lambda *_, **__: triton_operations())
        fused = load(name, tmp_path, padding=padding)
    assert fused.tower.operations.describe() == "attention triton, elementwise triton"
    ids = plain.tokenizer(["a photo of a dog", "two red cats", "", "a " * 100]).ids
    outputs = [encoder.encode_packed(encoder.pack(ids, num_computed=512)) for encoder in (plain, fused)]
    for expected, found in zip(*(vars(output).values() for output in outputs), strict=True):
        if expected is not None:
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_kernels_are_chosen_where_they_are_right(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = {"triton": 1.0, "torch": 0.95}
    monkeypatch.setattr(operations._AttentionExample, "seconds", lambda _, attention: seconds[attention.name])
    monkeypatch.setattr(operations, "_EXAMPLE_TOKENS", 200)
    monkeypatch.setattr(operations, "_RELATIVE_ERROR", {torch.float32: 1e-4, torch.bfloat16: 0.1})

    def chosen(sizes: TowerSizes = SIZES) -> str:
        found = fastest_operations(sizes, dtype=torch.float32, device=torch.device("cpu"), in_float8=False)
        return found.describe()

    with caplog.at_level(logging.WARNING):
        assert chosen() == "attention triton, elementwise triton"
        assert chosen(dataclasses.replace(SIZES, is_causal=True)) == "attention triton, elementwise triton"
        seconds["torch"] = 0.8
        assert chosen() == "attention torch, elementwise triton"
        seconds["torch"] = 1.0
        # A head that has no kernel.
        assert chosen(dataclasses.replace(SIZES, channels=24)) == "attention torch, elementwise triton"
        assert not caplog.records
        right = kernels.gated_gelu
        monkeypatch.setattr(kernels, "gated_gelu", lambda both: 1.01 * right(both))
        assert chosen() == "attention triton, elementwise torch"
        assert "gated_gelu: relative error 1.0e-02" in caplog.text
        right_attention = kernels.attention
        monkeypatch.setattr(
            kernels, "attention", lambda *tensors, **options: float("nan") * right_attention(*tensors, **options)
        )
        assert chosen() == "attention torch, elementwise torch"
        assert "attention: relative error nan" in caplog.text

"""Operations on CUDA, counted with stand-ins: their number does not depend on the captions' lengths."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.batch_budget import _MOST_TOKENS
from pipeline.encoders import TextEncoder
from pipeline.encoders.attention import DistanceBias, TorchAttention
from pipeline.encoders.operations import TORCH_OPERATIONS, Operations, TowerSizes, choose_operations, example_batch
from pipeline.encoders.packed import PackedTokens, round_up_size
from pipeline.engine import EncodeEngine
from pipeline.repeated_captions import RepeatedCaptions
from pipeline.tokenizers import TokenizedCaptions
from pipeline.windows import Window
from schemas.identity import ENCODER_NAMES
from tests.checkpoints import small_clip, small_t5, write_sd3
from tests.pipeline.encoders.encoding import load

NUM_CAPTIONS = 1024
GPU_BATCH_TOKENS = _MOST_TOKENS


class Launches(TorchDispatchMode):
    """Counts operations by name. A stand-in for a fused kernel counts once, whatever it computes with."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._is_inside = False

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._is_inside and not function.is_view:
            self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))

    @contextmanager
    def fused(self, name: str) -> Iterator[None]:
        assert not self._is_inside
        self.counts[name] += 1
        self._is_inside = True
        try:
            yield
        finally:
            self._is_inside = False

    def operations(self) -> Operations:
        """Stand-ins for the Triton kernels."""
        plain = TORCH_OPERATIONS

        def counted(name: str) -> Any:
            function = getattr(plain, name)

            def call(*arguments: Any) -> Any:
                with self.fused(name):
                    return function(*arguments)

            return call

        names = ("rms_norm", "add_layer_norm", "quick_gelu", "gated_gelu", "quantize_rows")
        return Operations("stand-in", _CountedAttention(self), **{name: counted(name) for name in names})


class _CountedAttention(TorchAttention):
    name = "stand-in"

    def __init__(self, launches: Launches) -> None:
        self._launches = launches

    def within_captions(self, *arguments: Any, **options: Any) -> torch.Tensor:
        with self._launches.fused("attention"):
            return super().within_captions(*arguments, **options)

    def from_eos(self, *arguments: Any) -> torch.Tensor:
        with self._launches.fused("attention"):
            return super().from_eos(*arguments)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd3")
    write_sd3(folder, small_clip(1, width=64), small_clip(2, width=96, activation="gelu"), small_t5(3))
    return folder


def encoders(folder: Path, operations: Operations) -> dict[str, TextEncoder]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.encoders.load.choose_operations", lambda *_, **__: operations)
        return {name: load(name, folder, padding="none") for name in ENCODER_NAMES}


def window(by_name: Mapping[str, TextEncoder], lengths: np.ndarray, seed: int = 0) -> Window:
    """Captions of these lengths, in tokens of every encoder, as far as it takes so many."""
    random, captions = np.random.default_rng(seed), [f"caption {number}" for number in range(len(lengths))]
    tokens = {}
    for name, encoder in by_name.items():
        eos = encoder.identity.eos_token_id
        kept = np.minimum(lengths, encoder.identity.max_tokens)
        ids = [np.append(random.integers(3, 90, length - 1), eos).astype(np.int32) for length in kept]
        tokens[name] = TokenizedCaptions(ids, lengths > kept)
    return Window(captions, captions, captions, tokens)


def realistic_lengths(count: int, seed: int = 0) -> np.ndarray:
    """Lognormal, mean 25 tokens, as short captions are."""
    found = np.random.default_rng(seed).lognormal(np.log(22), 0.5, count)
    return np.clip(found, 3, 256).astype(np.int64)


def launches_of(folder: Path, lengths: np.ndarray) -> Counter[str]:
    launches = Launches()
    by_name = encoders(folder, launches.operations())
    engine = EncodeEngine(by_name, batch_tokens=GPU_BATCH_TOKENS)
    with launches:
        found = list(engine.encode([window(by_name, lengths)], RepeatedCaptions(set(), 0)))
    assert len(found[0].rows) == len(lengths)
    assert not found[0].not_finite
    return launches.counts


def test_attention_is_one_call_a_layer_and_batch_whatever_the_lengths(sd3: Path) -> None:
    """1,024 captions of realistic lengths are one batch of the device's: no more than 8 calls a layer are asked for."""
    lengths = realistic_lengths(NUM_CAPTIONS)
    assert len(set(lengths)) > 50
    by_name = encoders(sd3, TORCH_OPERATIONS)
    num_layers = sum(len(encoder.tower.layers) for encoder in by_name.values())
    assert launches_of(sd3, lengths)["attention"] == num_layers


def test_launches_do_not_grow_with_the_number_of_lengths(sd3: Path) -> None:
    many, one = (launches_of(sd3, lengths) for lengths in (realistic_lengths(256), np.full(256, 12)))
    assert many == one
    # Of the small encoders: 2 + 2 + 2 layers.
    assert many.total() < 200, many


def test_sizes_seen_by_any_cache_are_bounded(sd3: Path) -> None:
    """Of 10,240 captions in windows of a GPU worker: 192 numbers of tokens and 171 of captions are all there can be."""
    token_sizes = {round_up_size(count, 64) for count in range(1, GPU_BATCH_TOKENS + 1)}
    assert len(token_sizes) == 192
    eos_sizes = {round_up_size(count, 32) for count in range(1, GPU_BATCH_TOKENS // 3)}
    assert len(eos_sizes) == 171
    seen: dict[str, set[int]] = {"tokens": set(), "captions": set()}
    operations = dataclasses.replace(TORCH_OPERATIONS, attention=_SizesOfAttention(seen))
    by_name = encoders(sd3, operations)
    engine = EncodeEngine(by_name, batch_tokens=GPU_BATCH_TOKENS)
    real = computed = 0
    for seed, num_rows in enumerate([1024, 933, 1024, 517, 1024, 1024, 811, 1024, 1024, 1024, 811]):
        lengths = realistic_lengths(num_rows, seed)
        (found,) = engine.encode([window(by_name, lengths, seed)], RepeatedCaptions(set(), 0))
        real, computed = real + found.counters.num_tokens, computed + found.counters.num_padded_tokens
    assert seen["tokens"] <= token_sizes
    assert seen["captions"] <= eos_sizes
    assert real > 0.96 * computed


class _SizesOfAttention(TorchAttention):
    """Records the shapes that a kernel for whole batches would see, and computes nothing."""

    def __init__(self, seen: dict[str, set[int]]) -> None:
        self._seen = seen

    def within_captions(self, qkv_N3HC: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        self._seen["tokens"].add(len(qkv_N3HC))
        return qkv_N3HC[:, 2].flatten(1)

    def from_eos(self, q_FHC: torch.Tensor, *_: Any) -> torch.Tensor:
        self._seen["captions"].add(len(q_FHC))
        return q_FHC.flatten(1)


@given(st.integers(1, 300_000), st.sampled_from([1, 32, 64]))
def test_sizes_hold_what_they_are_for_and_little_more(count: int, step: int) -> None:
    size = round_up_size(count, step)
    assert count <= size < count + max(step, count / 32 + 1)
    assert round_up_size(size, step) == size


def test_a_bias_by_distance_is_its_matrix() -> None:
    distance = torch.arange(13)[None] - torch.arange(13)[:, None]
    matrix = torch.randn(3, 25)[:, distance + 12]
    bias = DistanceBias(matrix)
    assert bias.by_distance_HS.shape == (3, 25)
    assert torch.equal(bias.matrix_HLL, matrix)
    assert bias.matrix_HLL.stride(1) % 8 == 0


def test_a_processor_computes_with_torch() -> None:
    sizes = TowerSizes(64, 128, 4, 16, 77, "none", is_causal=True)
    chosen = choose_operations(sizes, dtype=torch.bfloat16, device=torch.device("cpu"), in_float8=False)
    assert chosen is TORCH_OPERATIONS


@pytest.mark.parametrize("padding", ["none", "max_length"])
def test_kernels_are_measured_on_captions_like_those_to_come(padding: str) -> None:
    sizes = TowerSizes(64, 128, 4, 16, 256, padding, is_causal=False)
    packed: PackedTokens = example_batch(sizes)
    assert len(packed.token_ids) == 8192
    assert len(packed.runs) == (1 if padding == "max_length" else len({run.length for run in packed.runs}))
    assert max(run.length for run in packed.runs) <= 256
    assert (len(packed.runs) > 30) == (padding == "none")
    # Some tokens fill the batch up, as in every real one.
    assert 0 < len(packed.token_ids) - packed.num_tokens <= 256

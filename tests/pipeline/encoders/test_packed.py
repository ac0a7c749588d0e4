"""Packed captions: each sees itself alone, and the towers do what the libraries' modules do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from pipeline.encoders.packed import pack_tokens
from tests.checkpoints import small_clip, small_t5, write_sd3
from tests.pipeline.encoders.encoding import load

pytestmark = pytest.mark.processor


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd3")
    clip_g = small_clip(2, width=96, projection=80, layers=4, activation="gelu")
    write_sd3(folder, small_clip(1, width=64, eos_token_id=2), clip_g, small_t5(3))
    return folder


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(0, 200))
def test_every_token_keeps_its_caption_and_place(lengths: list[int], num_computed: int) -> None:
    rows = [np.array([*[5] * (length - 1), 7], np.int32) for length in lengths]
    packed = pack_tokens(rows, eos_id=7, num_computed=num_computed)
    total = sum(lengths)
    assert packed.num_tokens == total
    assert len(packed.token_ids) == len(packed.positions) == max(total, num_computed)
    assert packed.token_ids[:total].tolist() == [token for row in rows for token in row]
    assert packed.positions[:total].tolist() == [place for length in lengths for place in range(length)]
    assert packed.eos.tolist() == [end - 1 for end in np.cumsum(lengths)]
    assert [run.length for run in packed.runs for _ in range(run.num_rows)] == lengths


def test_eos_is_the_first_of_its_id_or_of_the_highest() -> None:
    rows = [np.array([3, 7, 9, 7], np.int32), np.array([3, 4, 7], np.int32)]
    assert pack_tokens(rows, eos_id=7).eos.tolist() == [1, 6]
    assert pack_tokens(rows, eos_id=None).eos.tolist() == [2, 6]


@pytest.mark.parametrize("name", ["clip_l", "clip_g"])
def test_clip_is_the_librarys(name: str, sd3: Path) -> None:
    folder = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}[name]
    reference = CLIPTextModelWithProjection.from_pretrained(sd3 / folder)
    encoder = load(name, sd3)
    ids = torch.randint(0, 49406, (5, 77), generator=torch.Generator().manual_seed(0))
    ids[:, 30:] = 49407
    with torch.inference_mode():
        expected = reference(ids, output_hidden_states=True)
    output = encoder.encode(ids, torch.full((5,), 31))
    torch.testing.assert_close(output.hidden, expected.hidden_states[-2], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.pooled, expected.text_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.eos, expected.last_hidden_state[:, 30], atol=1e-5, rtol=0)
    assert expected.last_hidden_state[:, 30].std() > 0.1


@pytest.mark.parametrize("length", [3, 40, 77])
def test_t5_is_the_librarys(length: int, sd3: Path) -> None:
    reference = T5EncoderModel.from_pretrained(sd3 / "text_encoder_3")
    encoder = load("t5", sd3, padding="none")
    ids = torch.randint(2, 100, (4, length), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = reference(ids).last_hidden_state
    output = encoder.encode(ids, torch.full((4,), length))
    torch.testing.assert_close(output.hidden, expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.1


@pytest.mark.parametrize("name", ["clip_l", "clip_g", "t5"])
def test_what_fills_a_batch_changes_nothing(name: str, sd3: Path) -> None:
    encoder = load(name, sd3, padding="none")
    ids = encoder.tokenizer(["a cat", "two", "a photo of a dog", "a bird"]).ids
    plain, filled = (encoder.encode_packed(encoder.pack(ids, num_computed=count)) for count in (0, 128))
    assert len(plain.hidden) == len(filled.hidden) == sum(map(len, ids))
    for left, right in zip(vars(plain).values(), vars(filled).values(), strict=True):
        if left is not None:
            torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["clip_l", "clip_g"])
def test_products_of_few_sizes_are_computed_however_many_captions_a_batch_has(name: str, sd3: Path) -> None:
    """torch keeps what it compiled for each size, so sizes without number are memory without bound."""
    encoder = load(name, sd3, padding="none")
    sizes: set[int] = set()

    class Recorded(TorchFunctionMode):
        def __torch_function__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function in (torch.nn.functional.linear, torch.Tensor.matmul, torch.Tensor.__matmul__):
                sizes.add(len(args[0]))
            return function(*args, **(kwargs or {}))

    for num_captions in range(1, 65):
        ids = encoder.tokenizer([f"cat {number}" for number in range(num_captions)]).ids
        with Recorded():
            output = encoder.encode_packed(encoder.pack(ids, num_computed=512))
        assert output.pooled is not None
        assert output.eos is not None
        assert len(output.pooled) == len(output.eos) == num_captions
    assert sizes == {32, 64, 512}


def test_flops_are_those_of_the_design(sd3: Path) -> None:
    """Two for every weight of a linear layer and token, and attention's share by the pair."""
    encoder = load("t5", sd3, padding="none")
    weights = sum(
        parameter.numel()
        for name, parameter in T5EncoderModel.from_pretrained(sd3 / "text_encoder_3").named_parameters()
        if parameter.dim() == 2 and "shared" not in name and "embed" not in name and "bias" not in name
    )
    one, ten = (encoder.model_flops(np.array(lengths)) for lengths in ([1], [10]))
    architecture = encoder.identity.architecture
    pair = 4 * architecture["layers"] * architecture["heads"] * architecture["head_width"]
    assert one == 2 * weights + pair
    assert ten == 20 * weights + 100 * pair

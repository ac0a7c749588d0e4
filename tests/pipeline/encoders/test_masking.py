"""`none`: a caption has the values it has alone, whatever its neighbours; `max_length`: pads are part of the input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.encoders import EncoderOutput, TextEncoder, pad_token_ids
from schemas.identity import ComputeDtype, EncoderName
from tests.checkpoints import AWKWARD_CAPTIONS, small_clip, small_t5, write_open_clip, write_sd3
from tests.pipeline.encoders.encoding import encode, load

pytestmark = pytest.mark.processor

SOURCES: list[tuple[EncoderName, str]] = [("clip_l", "sd3"), ("clip_g", "sd3"), ("clip_g", "open_clip"), ("t5", "sd3")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    clip_g = small_clip(2, width=96, layers=4, activation="gelu")
    write_sd3(folder / "sd3", small_clip(1, width=64), clip_g, small_t5(3))
    write_open_clip(folder / "open_clip", clip_g)
    return folder


def alone(encoder: TextEncoder, caption: str) -> EncoderOutput:
    """One caption, its real tokens only, without any padding or mask."""
    token_ids = torch.from_numpy(encoder.tokenizer([caption]).ids[0].astype(np.int64))[None]
    return encoder.encode(token_ids, torch.tensor([token_ids.shape[1]]))


def compare(
    encoder: TextEncoder, captions: Sequence[str], expected: dict[str, EncoderOutput], tolerance: float
) -> None:
    output = encode(encoder, captions)
    lengths = [len(ids) for ids in encoder.tokenizer(captions).ids]
    assert output.hidden.shape[1] == max(lengths)
    for row, (caption, length) in enumerate(zip(captions, lengths, strict=True)):
        wanted = expected[caption]
        assert wanted.hidden.shape[1] == length
        assert (output.hidden[row, :length] - wanted.hidden[0]).abs().max() <= tolerance
        for part, wanted_part in ((output.pooled, wanted.pooled), (output.eos, wanted.eos)):
            assert (part is None) == (wanted_part is None) == (encoder.name == "t5")
            if part is not None and wanted_part is not None:
                assert (part[row] - wanted_part[0]).abs().max() <= tolerance


# Rounding in bfloat16 is 2**-8 of values of about 4.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.1)])
@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_neighbours_do_not_matter(
    name: EncoderName, source: str, dtype: ComputeDtype, tolerance: float, models: Path
) -> None:
    encoder = load(name, models / source, padding="none", compute_dtype=dtype)
    assert encoder.identity.attention_mask
    expected = {caption: alone(encoder, caption) for caption in AWKWARD_CAPTIONS}
    orders = [AWKWARD_CAPTIONS, AWKWARD_CAPTIONS[::-1], ["", "a photo of a dog"], ["word " * 100, ""], ["!"] * 3]
    for captions in orders:
        compare(encoder, captions, expected, tolerance)


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_pads_are_encoded_under_max_length(name: EncoderName, source: str, models: Path) -> None:
    whole = encode(load(name, models / source, padding="max_length"), ["a photo of a dog"])
    real = encode(load(name, models / source, padding="none"), ["a photo of a dog"])
    length = real.hidden.shape[1]
    assert whole.hidden.shape[1] == 77 > length
    assert whole.hidden[0, length:].std(dim=0).mean() > 0.001
    difference = (whole.hidden[0, :length] - real.hidden[0]).abs().max()
    # A causal model does not see the pads that follow; T5 does, and Stable Diffusion 3 was trained with it.
    assert difference > 0.01 if name == "t5" else difference < 1e-5


def test_rows_are_padded_on_the_right() -> None:
    rows = [np.array([5, 6, 7], dtype=np.int32), np.array([8], dtype=np.int32)]
    token_ids, num_tokens = pad_token_ids(rows, pad_id=9, max_tokens=5, padding="max_length")
    assert token_ids.tolist() == [[5, 6, 7, 9, 9], [8, 9, 9, 9, 9]]
    assert num_tokens.tolist() == [3, 1]
    assert pad_token_ids(rows, pad_id=9, max_tokens=5, padding="none")[0].tolist() == [[5, 6, 7], [8, 9, 9]]

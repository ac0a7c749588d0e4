"""The engine: memory that runs out, windows in flight, figures that add up."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pipeline.encoded import EncodedWindow
from pipeline.encoders import EncoderOutput, TextEncoder
from pipeline.encoders.packed import PackedTokens
from pipeline.engine import EncodeEngine
from pipeline.repeated_captions import RepeatedCaptions
from pipeline.windows import Window
from schemas.identity import ENCODER_NAMES
from tests.pipeline.encoding import small_encoders

CAPTIONS = [" ".join(["word"] * n) + f" {n % 5}" for n in (3, 9, 1, 14, 2, 2, 7, 9, 12, 5)]


def window(captions: Sequence[str | None], encoders: dict[str, TextEncoder]) -> Window:
    distinct = list(dict.fromkeys(caption for caption in captions if caption is not None))
    tokens = {name: encoders[name].tokenizer(distinct) for name in ENCODER_NAMES}
    return Window([str(number) for number in range(len(captions))], captions, distinct, tokens)


def encoded(engine: EncodeEngine, windows: Sequence[Window], held: Sequence[str] = ()) -> list[EncodedWindow]:
    return list(engine.encode(windows, RepeatedCaptions(map(hash, held), 10**8)))


def same(left: EncodedWindow, right: EncodedWindow) -> None:
    for one, other in zip(left.rows, right.rows, strict=True):
        assert (one is None) == (other is None)
        for name in ENCODER_NAMES if one is not None and other is not None else ():
            values = [np.stack(row[name].hidden[::-1], axis=1).view(np.float32) for row in (one, other)]
            np.testing.assert_allclose(*values, atol=1e-4)


@pytest.mark.parametrize("padding", ["none", "max_length"])
def test_memory_that_runs_out_halves_the_batches(
    padding: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoders = small_encoders(padding)
    original, sizes = TextEncoder.encode_packed, []

    def limited(self: TextEncoder, packed: PackedTokens) -> EncoderOutput:
        sizes.append(len(packed.token_ids))
        if sizes[-1] > 300:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, packed)

    plenty = encoded(EncodeEngine(encoders, 4096), [window(CAPTIONS * 2, encoders)])
    monkeypatch.setattr(TextEncoder, "encode_packed", limited)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    engine = EncodeEngine(encoders, 4096)
    captions = [f"{caption} {number}" for number, caption in enumerate(CAPTIONS * 20)]
    with caplog.at_level(logging.WARNING):
        found = encoded(engine, [window(CAPTIONS * 2, encoders), window(captions, encoders)])
    same(plenty[0], found[0])
    assert engine.batch_tokens == 256
    assert "going on with 256" in caplog.text
    assert all(row is not None for row in found[1].rows)
    # What was tried in vain is tried no more.
    assert max(sizes[sizes.index(max(sizes)) + 8 :]) <= 300


def test_memory_that_does_not_suffice_for_the_least_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: TextEncoder, packed: PackedTokens) -> EncoderOutput:
        raise torch.OutOfMemoryError("CUDA out of memory")

    encoders = small_encoders("none")
    monkeypatch.setattr(TextEncoder, "encode_packed", never)
    with pytest.raises(torch.OutOfMemoryError):
        encoded(EncodeEngine(encoders, 4096), [window(CAPTIONS, encoders)])


def test_a_window_in_flight_computes_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the second window is launched before the first has come back."""
    encoders = small_encoders("none")
    first, second = window([*CAPTIONS, None], encoders), window(["new", *CAPTIONS[:3], "new"], encoders)
    plain = encoded(EncodeEngine(encoders, 1024), [first, second])
    engine = EncodeEngine(encoders, 1024)
    monkeypatch.setattr(engine, "_windows_ahead", 1)
    found = encoded(engine, [first, second, window([], encoders)], held=CAPTIONS)
    for left, right in zip(plain, found, strict=False):
        same(left, right)
    assert found[0].counters.num_captions == 10
    assert found[1].counters.num_captions == 5
    assert found[1].counters.num_repeated == 4
    assert found[1].counters.num_tokens == sum(len(encoders[name].tokenizer(["new"]).ids[0]) for name in ENCODER_NAMES)
    assert found[2].counters.num_padded_tokens == 0


def test_figures_add_up() -> None:
    encoders = small_encoders("none")
    (found,) = encoded(EncodeEngine(encoders, 1024), [window(CAPTIONS, encoders)])
    lengths = {
        name: [len(ids) for ids in encoders[name].tokenizer(list(dict.fromkeys(CAPTIONS))).ids]
        for name in ENCODER_NAMES
    }
    counters = found.counters
    assert counters.num_tokens == sum(map(sum, lengths.values()))
    assert counters.num_tokens <= counters.num_padded_tokens < counters.num_tokens + 3 * 64
    assert counters.flops == sum(encoders[name].model_flops(np.array(lengths[name])) for name in ENCODER_NAMES)
    assert 0 < counters.device_seconds <= counters.encode_seconds

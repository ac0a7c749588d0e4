"""From a device to the host: page-locked memory in blocks, and what happens when there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline import transfer
from pipeline.encoders import EncoderOutput
from pipeline.transfer import PageLockedMemoryError, Transfer
from tests.pipeline.device_encoders import checked_device
from tests.stream_checker import DEVICE

SD3 = {"clip_l": (77, 768, 768), "clip_g": (77, 1280, 1280), "t5": (77, 4096, 0)}
"""Of each encoder: tokens of a caption, width, width of the projected vector."""
SD3_ROWS = 544
"""Of a window: whole chunks of 32 within 512 MiB."""


def output(lengths: list[int], width: int, vectors: int) -> EncoderOutput:
    values = torch.arange(sum(lengths) * width, dtype=torch.float32).view(-1, width)
    rows = torch.arange(len(lengths) * vectors, dtype=torch.float32).view(-1, vectors) if vectors else None
    return EncoderOutput(values, rows, None if rows is None else rows + 1)


def test_a_window_takes_little_more_page_locked_memory_than_it_has_bytes() -> None:
    """By arithmetic on the real sizes: torch rounds every block up to a power of two."""
    taken = whole = raw = 0
    for tokens, width, vectors in SD3.values():
        num_tokens, planes = SD3_ROWS * tokens, 2

        def empty(rows: int, columns: int) -> torch.Tensor:
            return torch.empty(rows, columns, dtype=torch.uint8, device="meta")

        prepared = transfer._Prepared(
            [empty(num_tokens, width) for _ in range(planes)],
            [empty(SD3_ROWS, vectors) for _ in range(planes)] if vectors else None,
            [empty(SD3_ROWS, width) for _ in range(planes)] if vectors else None,
            torch.empty(num_tokens, dtype=torch.bool, device="meta"),
            torch.empty(SD3_ROWS, dtype=torch.bool, device="meta") if vectors else None,
        )
        parts = list(transfer._blocks(prepared, np.full(SD3_ROWS, tokens)))
        assert sum(part.num_bytes for part, _ in parts) == prepared.num_bytes
        taken += sum(1 << (part.num_bytes - 1).bit_length() for part, _ in parts)
        whole += planes * (1 << (num_tokens * width - 1).bit_length())
        raw += prepared.num_bytes
    assert raw == pytest.approx(491 * 1024**2, rel=0.01)
    assert whole > 1.4 * raw
    assert taken < 1.06 * raw


@pytest.mark.parametrize("vectors", [0, 24])
def test_blocks_are_what_the_host_reads(vectors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of many blocks, some captions larger than one, equals the batch in one piece."""
    lengths = [3, 1, 9, 2, 2, 2, 40, 1, 5, 5, 64, 1, 1]
    stored = np.array(lengths)
    (plain,) = Transfer(torch.device("cpu")).start(output(lengths, 32, vectors), stored, "bfloat16")()
    monkeypatch.setattr(transfer, "_BLOCK_BYTES", 1024)
    with checked_device():
        made = output(lengths, 32, vectors)
        moved = [None if one is None else one.to(DEVICE) for one in (made.hidden, made.pooled, made.eos)]
        assert moved[0] is not None
        found = Transfer(DEVICE).start(EncoderOutput(moved[0], *moved[1:]), stored, "bfloat16")()
    assert len(found) > 5
    captions = [(batch, row) for batch in found for row in range(len(batch.finite))]
    for index, (batch, row) in enumerate(captions):
        wanted, got = (one.caption(at, 1, truncated=False) for one, at in ((plain, index), (batch, row)))
        assert (got.stored_tokens, batch.finite[row]) == (lengths[index], plain.finite[index])
        for left, right in ((wanted.hidden, got.hidden), (wanted.pooled, got.pooled), (wanted.eos, got.eos)):
            assert (left is None) == (right is None)
            for one, other in zip(left or (), right or (), strict=True):
                assert one.tobytes() == other.tobytes()


def test_blocks_are_counted_as_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_BLOCK_BYTES", 4096)
    with checked_device() as checker:
        there = EncoderOutput(torch.zeros(900, 32, device=DEVICE), None, None)
        batches = Transfer(DEVICE).start(there, np.full(300, 3), "bfloat16")()
        assert 900 * 65 <= checker.pinned_bytes < 1.1 * 900 * 65
        del batches
        Transfer(DEVICE).start(there, np.full(300, 3), "bfloat16")()
        assert checker.pinned_bytes < 1.1 * 900 * 65, "blocks of the first batch serve the second"


def test_a_value_that_is_not_finite_is_found_in_any_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_BLOCK_BYTES", 1024)
    made = output([4] * 20, 32, 24)
    made.hidden[4 * 13 + 2, 5] = float("nan")
    assert made.eos is not None
    made.eos[17, 3] = float("inf")
    with checked_device():
        assert made.pooled is not None
        there = EncoderOutput(made.hidden.to(DEVICE), made.pooled.to(DEVICE), made.eos.to(DEVICE))
        found = np.concatenate([batch.finite for batch in Transfer(DEVICE).start(there, np.full(20, 4), "bfloat16")()])
    assert np.flatnonzero(~found).tolist() == [13, 17]


def test_memory_that_cannot_be_page_locked_is_an_error_of_its_own() -> None:
    """The worker is sound: nothing in the message makes the job replace it."""
    with checked_device() as checker:
        checker.pinned_limit = 4096
        there = EncoderOutput(torch.zeros(256, 32, device=DEVICE), None, None)
        with pytest.raises(PageLockedMemoryError, match=r"page-locked-memory(.|\n)*16,640 more bytes") as found:
            Transfer(DEVICE).start(there, np.full(64, 4), "bfloat16")
        assert "CUDA" not in str(found.value)


def test_other_errors_of_the_device_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier kernel's failure shows up in whatever call comes next."""

    def failing(*_args: object, **_options: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with checked_device():
        there = EncoderOutput(torch.zeros(256, 32, device=DEVICE), None, None)
        monkeypatch.setattr(torch, "empty", failing)
        with pytest.raises(RuntimeError, match="device-side assert"):
            Transfer(DEVICE).start(there, np.full(64, 4), "bfloat16")
        monkeypatch.undo()

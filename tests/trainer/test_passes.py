"""As many passes on every rank."""

from __future__ import annotations

import numpy as np
import torch

from tests.trainer.memory_stream import make_batch, placeholder
from trainer.passes import agreed_passes, num_passes, num_valid_rows, valid_sum


def test_batch_of_one_size_is_filled_up_and_others_are_not() -> None:
    one, two, none = make_batch([0, 1, 2, 3], 4), make_batch([3, 4, 5, 6], 8, num_sizes=2), make_batch([3], 4)
    assert [num_passes([one]), num_passes([two]), num_passes([none]), num_passes([one, two])] == [1, 2, 0, 3]
    assert num_valid_rows([one, two, none]) == 6
    passes = list(agreed_passes([one, two, none], 5, placeholder()))
    assert [valid for _, valid in passes] == [3, 2, 1, 0, 0]
    assert [len(batch.latents) for batch, _ in passes] == [4, 2, 1, 1, 1]
    filled = passes[0][0]
    np.testing.assert_array_equal(filled.positions, [0, 1, 2, 2])
    assert torch.equal(filled.latents[3], filled.latents[2])
    assert torch.equal(filled.prompt_embeds[:3], one.prompt_embeds[:3])
    assert filled.pooled_prompt_embeds.shape == one.pooled_prompt_embeds.shape


def test_rows_that_do_not_count_add_nothing_but_are_connected() -> None:
    losses = torch.tensor([1.0, 2.0, 50.0], requires_grad=True)
    total = valid_sum(losses, 2)
    total.backward()
    assert float(total.detach()) == 3.0
    assert losses.grad is not None
    assert losses.grad.tolist() == [1.0, 1.0, 0.0]
    assert valid_sum(losses, 0).requires_grad

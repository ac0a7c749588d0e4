"""Captions side by side, without padding between them: what the encoders compute on.

Nearly all work of a text encoder is done token by token (projections, norms, gates), and only attention needs to know
which tokens make a caption. So a batch is one row of tokens, in which captions of the same length are neighbours: a run
of them is a dense [rows, length] batch for attention, with no mask and nothing to be masked, and everything else sees
tokens only. Captions of different lengths share a batch at no cost, and none sees another.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True)
class Run:
    """Neighbouring captions of one length.

    Attributes:
        num_rows: Captions.
        length: Tokens of each.
    """

    num_rows: int
    length: int

    @property
    def num_tokens(self) -> int:
        """Of all of its captions."""
        return self.num_rows * self.length


@dataclass(frozen=True)
class PackedTokens:
    """A batch of B captions, N tokens long. Tokens after the last caption fill up the shape; nothing looks at them.

    Attributes:
        token_ids: int64 [N].
        positions: int64 [N], each token's place in its caption.
        eos: int64 [B], where each caption's EOS is among the N.
        runs: In order.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    eos: torch.Tensor
    runs: tuple[Run, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that belong to captions."""
        return sum(run.num_tokens for run in self.runs)

    def to(self, device: torch.device) -> PackedTokens:
        """On another device; a copy from page-locked memory does not wait for it."""
        if device.type == "cpu":
            return self
        tensors: tuple[torch.Tensor, ...] = (self.token_ids, self.positions, self.eos)
        if device.type == "cuda":
            tensors = tuple(tensor.pin_memory() for tensor in tensors)
        token_ids, positions, eos = (tensor.to(device, non_blocking=True) for tensor in tensors)
        return PackedTokens(token_ids, positions, eos, self.runs)

    def slices(self) -> Iterator[tuple[Run, slice, slice]]:
        """Each run, with its tokens among the N and its captions among the B."""
        token = row = 0
        for run in self.runs:
            yield run, slice(token, token + run.num_tokens), slice(row, row + run.num_rows)
            token, row = token + run.num_tokens, row + run.num_rows


def pack_tokens(rows: Sequence[npt.NDArray[np.integer]], *, eos_id: int | None, num_computed: int = 0) -> PackedTokens:
    """Packs captions, on the CPU, in the order they come; equally long ones should be neighbours.

    Args:
        rows: Ids of each caption, at least one.
        eos_id: EOS is the first of these in a caption; None: the first of its highest id, as older CLIPs have it.
        num_computed: N, if that is more than the captions have.
    """
    lengths = [len(row) for row in rows]
    runs = tuple(Run(len(list(same)), length) for length, same in itertools.groupby(lengths))
    num_tokens = sum(lengths)
    token_ids = np.zeros(max(num_tokens, num_computed), np.int64)
    np.concatenate(rows, out=token_ids[:num_tokens], casting="same_kind")
    positions = np.zeros_like(token_ids)
    eos, start = [], 0
    for run in runs:
        block = token_ids[start : start + run.num_tokens].reshape(run.num_rows, run.length)
        positions[start : start + run.num_tokens] = np.tile(np.arange(run.length), run.num_rows)
        # argmax: the first of equal values.
        found = (block if eos_id is None else block == eos_id).argmax(axis=1)
        eos.append(start + run.length * np.arange(run.num_rows) + found)
        start += run.num_tokens
    arrays = (token_ids, positions, np.concatenate(eos))
    ids, places, ends = (torch.from_numpy(array) for array in arrays)
    return PackedTokens(ids, places, ends, runs)

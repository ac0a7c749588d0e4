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
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

SIZE_STEP = 64
"""Tokens of a batch are filled up to a multiple of this."""
_SIZES_PER_OCTAVE = 32
"""Filling is at most 1/32 of a batch."""


def round_up_size(count: int, step: int) -> int:
    """The least size of a batch that holds so many.

    Sizes are multiples of a step that doubles with every octave, so that whatever is kept for each size, such as a
    compiled product or a plan, is kept for 64 sizes up to 64 steps and for 32 more in each octave after that: 192 up to
    65,536 tokens in steps of 64.

    Args:
        count: Tokens, or captions.
        step: The smallest.
    """
    step = _size_step(count, step)
    return -(-count // step) * step


def largest_size(limit: int, step: int) -> int:
    """The largest size of a batch that is no more than `limit`; 0 if that is less than a step."""
    step = _size_step(limit, step)
    return limit // step * step


def _size_step(count: int, step: int) -> int:
    octave = 1 << max(count.bit_length() - 1, 0)
    return max(step, octave // _SIZES_PER_OCTAVE)


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
        starts: int32 [N], where the caption of each token begins; of a token that fills up the shape, the end of the
            last caption.
        stops: int32 [N], where it ends; likewise.
        runs: In order.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    eos: torch.Tensor
    starts: torch.Tensor
    stops: torch.Tensor
    runs: tuple[Run, ...]

    @cached_property
    def causal_stops(self) -> torch.Tensor:
        """int32 [N], the token after each, or `stops` where that is less: the end of what causal attention sees."""
        after = torch.arange(1, len(self.stops) + 1, dtype=torch.int32, device=self.stops.device)
        return torch.minimum(self.stops, after)

    @property
    def num_tokens(self) -> int:
        """Tokens that belong to captions."""
        return sum(run.num_tokens for run in self.runs)

    def to(self, device: torch.device) -> PackedTokens:
        """On another device; a copy from page-locked memory does not wait for it."""
        if device.type == "cpu":
            return self

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            there = tensor.pin_memory() if device.type == "cuda" else tensor
            return there.to(device, non_blocking=True)

        return PackedTokens(
            token_ids=moved(self.token_ids),
            positions=moved(self.positions),
            eos=moved(self.eos),
            starts=moved(self.starts),
            stops=moved(self.stops),
            runs=self.runs,
        )

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
    lengths = np.array([len(row) for row in rows])
    runs = tuple(Run(len(list(same)), length) for length, same in itertools.groupby(lengths.tolist()))
    stops_B = np.cumsum(lengths)
    starts_B, num_tokens = stops_B - lengths, int(stops_B[-1])
    num_filling = max(num_computed - num_tokens, 0)
    token_ids = np.concatenate([*rows, np.zeros(num_filling)], dtype=np.int64, casting="unsafe")
    starts = np.append(np.repeat(starts_B, lengths), np.full(num_filling, num_tokens))
    stops = np.append(np.repeat(stops_B, lengths), np.full(num_filling, num_tokens))
    positions = np.arange(len(token_ids)) - starts
    positions[num_tokens:] = 0
    eos = np.concatenate([_first_eos(token_ids, run, start, eos_id) for run, start in _run_starts(runs)])
    return PackedTokens(
        token_ids=torch.from_numpy(token_ids),
        positions=torch.from_numpy(positions),
        eos=torch.from_numpy(eos),
        starts=torch.from_numpy(starts.astype(np.int32)),
        stops=torch.from_numpy(stops.astype(np.int32)),
        runs=runs,
    )


def _run_starts(runs: Sequence[Run]) -> Iterator[tuple[Run, int]]:
    start = 0
    for run in runs:
        yield run, start
        start += run.num_tokens


def _first_eos(token_ids: npt.NDArray[np.int64], run: Run, start: int, eos_id: int | None) -> npt.NDArray[np.int64]:
    """int64 [rows of the run], where each caption's EOS is in the batch."""
    block = token_ids[start : start + run.num_tokens].reshape(run.num_rows, run.length)
    # argmax: the first of equal values.
    found = (block if eos_id is None else block == eos_id).argmax(axis=1)
    return start + run.length * np.arange(run.num_rows) + found

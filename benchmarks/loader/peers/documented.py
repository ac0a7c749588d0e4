"""The usual way: torch's DataLoader collates each tensor, and the training process joins them as diffusers does.

Every library is also measured in this way, as its documentation shows it. The other way, `assembly`, is how this
project assembles batches, given to all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.loader import values
from benchmarks.loader.meter import Batch

FIELDS = ("clip_l", "clip_g", "t5", "clip_l_pooled", "clip_g_pooled")
"""The tensors of a sample: hidden states [77, width] and pooled vectors [width]."""
WORKERS: list[dict[str, Any]] = [{"workers": 0}, {"workers": 1}, {"workers": 2}]
"""Settings that are tried."""


def float16_arrays(bits: values.Bits) -> dict[str, npt.NDArray[np.float16]]:
    """A sample's tensors for formats that know no bfloat16; all values are exact in both."""
    found = values.tensors(bits[: values.NUM_VALUES])
    return {name: (found[name].astype(np.uint32) << 16).view(np.float32).astype(np.float16) for name in FIELDS}


def join(collated: Iterable[Mapping[str, Any]]) -> Iterator[Batch]:
    """Assembles what a DataLoader has collated: `key`, and the tensors of `FIELDS` stacked."""
    for found in collated:
        clip = torch.cat([found["clip_l"], found["clip_g"]], dim=-1)
        clip = torch.nn.functional.pad(clip, (0, values.WIDTHS["t5"] - clip.shape[-1]))
        context = torch.cat([clip, found["t5"]], dim=-2)
        pooled = torch.cat([found["clip_l_pooled"], found["clip_g_pooled"]], dim=-1)
        keys = list(found["key"])
        yield Batch(keys, context.to(torch.bfloat16), pooled.to(torch.bfloat16), len(keys))


class EndlessOrder(torch.utils.data.Sampler):
    """Shuffled indices, epoch after epoch without a pause, or for one."""

    def __init__(self, num_samples: int, *, once: bool) -> None:
        self._num_samples = num_samples
        self._once = once

    def __iter__(self) -> Iterator[int]:
        epoch = 0
        while True:
            yield from np.random.default_rng(epoch).permutation(self._num_samples).tolist()
            epoch += 1
            if self._once:
                return

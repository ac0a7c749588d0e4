"""What all peers share: samples into assembled batches, by worker processes or by threads.

Both ways write each sample once, straight into the batch: workers into shared memory that the training process maps,
threads into tensors that are used again and again.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from benchmarks.loader import values
from benchmarks.loader.meter import Batch

T = TypeVar("T")
Sample = tuple[str, values.Bits]
"""Key and packed values, as `values.sample` without its end."""


def collate(samples: Sequence[Sample]) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Assembles a batch, in shared memory if this is a worker of torch's DataLoader.

    Returns:
        Keys, prompt_embeds bfloat16 [n, 154, 4096], pooled_prompt_embeds bfloat16 [n, 2048].
    """
    context, pooled = new_batch(len(samples))
    return fill_from(samples, context, pooled), context, pooled


def new_batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Zero tensors, bfloat16 [count, 154, 4096] and [count, 2048], in shared memory as for `collate`."""
    return _zeros((count, *values.CONTEXT_SHAPE)), _zeros((count, values.POOLED_WIDTH))


def fill_from(samples: Sequence[Sample], context: torch.Tensor, pooled: torch.Tensor) -> list[str]:
    """Writes samples into a batch that is zero or holds other samples, and gives their keys."""
    contexts, vectors = (tensor.view(torch.int16).numpy().view(np.uint16) for tensor in (context, pooled))
    for index, (_, bits) in enumerate(samples):
        values.put(contexts[index], vectors[index], bits)
    return [key for key, _ in samples]


def from_workers(batches: Iterable[tuple[list[str], torch.Tensor, torch.Tensor]]) -> Iterator[Batch]:
    """Batches that `collate` has made."""
    for keys, context, pooled in batches:
        yield Batch(keys, context, pooled, len(keys))


def from_threads(
    wanted: Iterable[T], fill: Callable[[T, torch.Tensor, torch.Tensor], list[str]], batch_size: int, threads: int
) -> Iterator[Batch]:
    """Batches that threads assemble, in order.

    Args:
        wanted: What each batch is to hold.
        fill: Writes one batch into bfloat16 tensors [n, 154, 4096] and [n, 2048], and gives its keys.
        batch_size: Samples of a batch.
        threads: Threads; 0 does it in the calling one.
    """
    ready = 2 * threads
    # One more than are being made: the batch that the consumer holds.
    free = deque(
        (
            torch.zeros((batch_size, *values.CONTEXT_SHAPE), dtype=torch.bfloat16),
            torch.zeros((batch_size, values.POOLED_WIDTH), dtype=torch.bfloat16),
        )
        for _ in range(ready + 2)
    )
    if threads == 0:
        for item in wanted:
            context, pooled = free[0]
            keys = fill(item, context, pooled)
            yield Batch(keys, context[: len(keys)], pooled[: len(keys)], len(keys))
        return
    torch.set_num_threads(1)
    pending: deque[tuple[Future[list[str]], torch.Tensor, torch.Tensor]] = deque()

    def finish() -> Iterator[Batch]:
        future, context, pooled = pending.popleft()
        keys = future.result()
        yield Batch(keys, context[: len(keys)], pooled[: len(keys)], len(keys))
        free.append((context, pooled))

    with ThreadPoolExecutor(threads) as pool:
        for item in wanted:
            context, pooled = free.popleft()
            pending.append((pool.submit(fill, item, context, pooled), context, pooled))
            if len(pending) > ready:
                yield from finish()
        while pending:
            yield from finish()


def groups(samples: Iterator[T], size: int) -> Iterator[list[T]]:
    """Samples, so many at a time."""
    while group := list(itertools.islice(samples, size)):
        yield group


def permutations(num_samples: int, batch_size: int, *, once: bool) -> Iterator[list[int]]:
    """Indices of shuffled batches; epoch after epoch without a pause, or one."""
    epoch = 0
    while True:
        order = np.random.default_rng(epoch).permutation(num_samples)
        yield from (order[start : start + batch_size].tolist() for start in range(0, num_samples, batch_size))
        epoch += 1
        if once:
            return


def _zeros(shape: tuple[int, ...]) -> torch.Tensor:
    if torch.utils.data.get_worker_info() is None:
        return torch.zeros(shape, dtype=torch.bfloat16)
    size = math.prod(shape)
    # As torch's own default_collate does. New pages of shared memory are zero.
    storage = torch.UntypedStorage._new_shared(2 * size, device="cpu")
    return torch.empty(0, dtype=torch.bfloat16).set_(storage, 0, shape)

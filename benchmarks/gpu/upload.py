"""The trainer's upload: batches of the stream on the GPU, bit for bit those that a CPU assembles."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from itertools import islice

import torch

from benchmarks.gpu.section import Context
from benchmarks.training_step_data import write_dataset
from benchmarks.training_step_sizes import SIZES
from schemas.dataset import open_dataset
from trainer.conditioning import ConditioningConfig
from trainer.stream.batch import Batch
from trainer.stream.config import StreamConfig
from trainer.stream.loader import StreamLoader

_NUM_BATCHES = 12
_THREAD_SECONDS = 5.0
_BUSY = 4096
"""Side of the products that keep the GPU busy while batches arrive."""


def run(context: Context) -> None:
    """Reads the same batches on the device and on the host, without waiting in between."""
    size, device = SIZES[context.sizes.training], torch.device(context.device)
    folder, batch_size = context.folder / "dataset", context.sizes.batch_size
    write_dataset(folder, size, size.resolutions[0], 4 * batch_size)

    def batches(where: torch.device, merge: str) -> Iterator[Batch]:
        before = set(threading.enumerate())
        loader = StreamLoader(
            [open_dataset(str(folder))],
            StreamConfig(memory_bytes=size.stream_bytes, merge=merge),
            ConditioningConfig(),
            seed=0,
            batch_size=batch_size,
            device=where,
            dtype=torch.bfloat16,
        )
        try:
            yield from islice(iter(loader), _NUM_BATCHES)
        finally:
            loader.close()
            _wait_for(set(threading.enumerate()) - before)

    found = []
    side = _BUSY if device.type == "cuda" else 8
    matrix = torch.randn(side, side, device=device)
    for batch in batches(device, "device"):
        # The copies below wait for this on the device, while the stream goes on: memory that is used again too early
        # would show in them.
        for _ in range(20):
            matrix @ matrix
        found.append([tensor.clone() for tensor in _tensors(batch)])
        del batch
    names = ("prompt_embeds", "pooled_prompt_embeds", "latents")
    wrong = dict.fromkeys(names, 0)
    different = 0
    before: Batch | None = None
    for tensors, expected in zip(found, batches(torch.device("cpu"), "host"), strict=True):
        for name, tensor, wanted in zip(names, tensors, _tensors(expected), strict=True):
            wrong[name] += not torch.equal(tensor.cpu(), wanted)
        different += before is None or not torch.equal(before.prompt_embeds, expected.prompt_embeds)
        before = expected
    for name, count in wrong.items():
        context.result.check(
            f"{name} of the stream, bit for bit", not count, f"{count} of {_NUM_BATCHES} batches differ"
        )
    context.result.check("batches can be told apart", different == _NUM_BATCHES, f"{different} different ones")
    shape = tuple(found[0][0].shape)
    context.result.note(
        f"- {_NUM_BATCHES} batches of conditioning {shape}, with dropout, and latents: equal to the host's."
    )


def _wait_for(threads: Iterable[threading.Thread]) -> None:
    """Until the loader's threads are gone: Python's end aborts the process while a daemon thread is in torch's code."""
    for thread in threads:
        thread.join(_THREAD_SECONDS)


def _tensors(batch: Batch) -> list[torch.Tensor]:
    (images,) = batch.latents
    return [batch.prompt_embeds, batch.pooled_prompt_embeds, images.latents]

"""Uploads to a GPU, as far as a CPU can tell: streams, page-locked memory that is used again, and values."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import schemas
from schemas.dataset import Dataset
from tests.datasets import make_latent_manifest, make_manifest, samples, write_dataset
from tests.stream_checker import DEVICE, StreamErrors, checked_streams
from trainer.conditioning import ConditioningConfig, context_layout
from trainer.stream.batch import Batch
from trainer.stream.config import StreamConfig
from trainer.stream.decode import decoded_captions
from trainer.stream.host_batch import HostBatch
from trainer.stream.loader import StreamLoader
from trainer.stream.staged import DeviceAssembler, StagedBatch, Staging
from trainer.stream.upload import Uploader

CONFIG = StreamConfig(num_streams=2, num_threads=2, num_readers=2, ready_batches=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("dataset")
    rows = {"a": samples(17, prefix="a-", missing=[3]), "b": samples(14, prefix="b-")}
    write_dataset(str(folder), make_manifest(), {"txt": rows}, make_latent_manifest(), None)
    return schemas.open_dataset(str(folder))


def loader(dataset: Dataset, device: torch.device, merge: Any, *, empty: bool) -> StreamLoader:
    return StreamLoader(
        [dataset],
        dataclasses.replace(CONFIG, merge=merge),
        ConditioningConfig(dropout=(0.4, 0.4, 0.4), left_out="empty" if empty else "zeros"),
        seed=5,
        batch_size=3,
        num_epochs=2,
        device=device,
        dtype=torch.bfloat16,
        empty=next(dataset.rows("txt")) if empty else None,
    )


def step(batch: Batch) -> list[torch.Tensor]:
    """What a training step makes of a batch: everything is read on the current stream, where it is then overwritten."""
    tensors = [batch.prompt_embeds, batch.pooled_prompt_embeds, *(images.latents for images in batch.latents)]
    for micro in batch.micro_batches():
        tensors += [micro.latents, micro.prompt_embeds, micro.pooled_prompt_embeds]
    made = [tensor.float() * 2 for tensor in tensors]
    batch.prompt_embeds.zero_()
    return made


@pytest.mark.parametrize(("merge", "empty"), [("device", True), ("device", False), ("host", False)])
def test_batches_are_those_of_a_cpu(dataset: Dataset, merge: str, empty: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """22 batches through 3 stagings, while the consumer launches its work and waits for nothing."""
    give_back, given_back = Uploader.give_back, []

    def watched(self: Uploader, host: HostBatch) -> None:
        # Whoever takes it next may write at once, though here it may happen to do so later.
        if isinstance(host.conditioning, StagedBatch):
            for staged in (*host.conditioning.hidden.values(), *host.conditioning.pooled.values()):
                given_back.extend(plane.numpy() for plane in staged.planes)
        for images in host.latents:
            images.latents.view(torch.uint8).numpy()
        give_back(self, host)

    monkeypatch.setattr(Uploader, "give_back", watched)
    wanted = [step(batch) for batch in loader(dataset, torch.device("cpu"), merge, empty=empty)]
    with checked_streams():
        one = loader(dataset, DEVICE, merge, empty=empty)
        found = [step(batch) for batch in one]
        one.close()
        values = [[tensor.cpu() for tensor in tensors] for tensors in found]
        del found
    assert len(values) == len(wanted) == 22
    assert (len(given_back) >= 22 * 10) == (merge == "device")
    for made, plain in zip(values, wanted, strict=True):
        assert all(torch.equal(left, right) for left, right in zip(made, plain, strict=True))


def assemble_twice(dataset: Dataset, *, waits: bool) -> None:
    layout = context_layout(dataset.manifest.captions)
    chunk = decoded_captions(dataset.read_chunk("txt", "a", 0))
    staging, assembler = Staging(layout, 3, pin=True), DeviceAssembler(layout, 3, DEVICE, None)
    for _ in range(2):
        assembler.assemble(staging.gather([(chunk, row) for row in range(3)], np.ones((3, 3), bool)))
        if waits:
            torch.cuda.synchronize()


def test_a_staging_that_is_used_again_too_early_is_found(dataset: Dataset) -> None:
    with checked_streams():
        assemble_twice(dataset, waits=True)
    with pytest.raises(StreamErrors) as found, checked_streams():
        assemble_twice(dataset, waits=False)
    assert set(found.value.kinds) == {"host-access"}
    assert "staged.py" in str(found.value)

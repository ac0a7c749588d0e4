"""Batches put together from decoded chunks equal the plain assembly of their rows, on the host and on a device."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

import schemas
from schemas.dataset import Dataset, Row
from schemas.identity import ENCODER_NAMES, Padding, StorageDtype
from schemas.manifest import Container
from tests.datasets import make_manifest, samples, write_dataset
from trainer.conditioning import Conditioning, assemble, context_layout
from trainer.stream.decode import CaptionChunk, decoded_captions
from trainer.stream.merged import HostAssembler
from trainer.stream.staged import DeviceAssembler, Staging

RANDOM = np.random.default_rng(0)
Rows = list[tuple[CaptionChunk, int] | None]


def dataset_of(folder: Path, container: Container, padding: Padding, dtype: StorageDtype) -> Dataset:
    manifest = make_manifest(container, padding, dtype)
    write_dataset(str(folder), manifest, {"txt": {"s": samples(12)}})
    return schemas.open_dataset(str(folder))


def random_batches(dataset: Dataset, number: int) -> list[tuple[Rows, list[Row | None], npt.NDArray[np.bool_]]]:
    """Batches of 5 of the dataset's 12 rows, some places without a row, some encoders left out."""
    chunks = [decoded_captions(dataset.read_chunk("txt", "s", index)) for index in range(3)]
    stored = list(dataset.rows("txt"))
    out = []
    for _ in range(number):
        chosen = [None if RANDOM.random() < 0.2 else int(RANDOM.integers(12)) for _ in range(5)]
        rows: Rows = [None if row is None else (chunks[row // 4], row % 4) for row in chosen]
        out.append((rows, [None if row is None else stored[row] for row in chosen], RANDOM.random((5, 3)) < 0.6))
    return out


def expected(dataset: Dataset, rows: list[Row | None], keep: npt.NDArray[np.bool_], empty: Row | None) -> Conditioning:
    identity = dataset.manifest.captions
    layout = context_layout(identity)
    context = torch.zeros(len(rows), layout.num_tokens, layout.width)
    pooled = torch.zeros(len(rows), layout.pooled_width)
    for index, row in enumerate(rows):
        if row is not None:
            one = assemble([row], identity, keep=keep[index : index + 1], empty=empty)
            context[index], pooled[index] = one.prompt_embeds[0], one.pooled_prompt_embeds[0]
    return Conditioning(context, pooled)


def same(found: Conditioning, wanted: Conditioning) -> bool:
    embeds = torch.equal(found.prompt_embeds.float(), wanted.prompt_embeds)
    return embeds and torch.equal(found.pooled_prompt_embeds.float(), wanted.pooled_prompt_embeds)


CASES = [
    ("arrow", "max_length", "bfloat16"),
    ("arrow", "none", "bfloat16"),
    ("arrow", "none", "float32"),
    ("webdataset", "max_length", "float16"),
]


@pytest.mark.parametrize("with_empty", [False, True])
@pytest.mark.parametrize(("container", "padding", "dtype"), CASES)
def test_both_ways_equal_the_plain_assembly(
    tmp_path: Path, container: Container, padding: Padding, dtype: StorageDtype, with_empty: bool
) -> None:
    dataset = dataset_of(tmp_path, container, padding, dtype)
    layout, empty = context_layout(dataset.manifest.captions), next(dataset.rows("txt")) if with_empty else None
    stand_in = None if empty is None else {name: (empty[name].hidden, empty[name].pooled) for name in ENCODER_NAMES}
    host = HostAssembler(layout, 5, stand_in)
    staging, device = Staging(layout, 5, pin=False), DeviceAssembler(layout, 5, torch.device("cpu"), stand_in)
    # Many, one after the other: memory that is used again must not show what was there before.
    for rows, stored, keep in random_batches(dataset, 20):
        wanted = expected(dataset, stored, keep, empty)
        assert same(host.assemble(rows, keep), wanted)
        assert same(device.assemble(staging.gather(rows, keep)), wanted)


def test_a_batch_that_is_kept_is_never_written_over(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, "arrow", "max_length", "bfloat16")
    assembler = HostAssembler(context_layout(dataset.manifest.captions), 5, None)
    batches = random_batches(dataset, 12)
    kept = [assembler.assemble(rows, keep) for rows, _, keep in batches]
    views = [found.prompt_embeds[1:3] for found in kept]
    pooled = [found.pooled_prompt_embeds for found in kept]
    del kept
    gc.collect()
    for rows, _, keep in random_batches(dataset, 12):
        assembler.assemble(rows, keep)
    for view, vector, (_, stored, keep) in zip(views, pooled, batches, strict=True):
        wanted = expected(dataset, stored, keep, None)
        assert torch.equal(view.float(), wanted.prompt_embeds[1:3])
        assert torch.equal(vector.float(), wanted.pooled_prompt_embeds)


def test_memory_of_batches_is_used_again(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, "arrow", "none", "bfloat16")
    assembler = HostAssembler(context_layout(dataset.manifest.captions), 5, None)
    places = {assembler.assemble(rows, keep).prompt_embeds.data_ptr() for rows, _, keep in random_batches(dataset, 9)}
    assert len(places) == 1

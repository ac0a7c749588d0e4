"""The stream, from files to batches: what comes, in which order, once each, and again after a resume."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import schemas
from schemas.dataset import Dataset
from schemas.errors import ConfigError, ContractError, IdentityMismatchError
from schemas.manifest import Container
from tests.datasets import latents, make_latent_manifest, make_manifest, pictures, samples, write_dataset
from trainer.conditioning import ConditioningConfig, assemble, keep_mask
from trainer.stream.batch import Batch
from trainer.stream.config import StreamConfig
from trainer.stream.loader import StreamLoader

SHARDS = {"a": 11, "b": 4, "c/d": 7, "e": 1, "f": 16}
NUM_ROWS = sum(SHARDS.values())
NO_DROPOUT = ConditioningConfig(dropout=(0, 0, 0))
CONFIG = StreamConfig(num_streams=3, num_threads=1, num_readers=2, ready_batches=2)


def shard_rows(**missing: list[int]) -> dict[str, Any]:
    return {name: samples(size, missing=missing.get(name, []), prefix=f"{name}-") for name, size in SHARDS.items()}


@pytest.fixture(scope="module")
def captions_only(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("captions")
    write_dataset(str(folder), make_manifest(), {"txt": shard_rows()})
    return schemas.open_dataset(str(folder))


def loader(dataset: Dataset, **options: Any) -> StreamLoader:
    defaults = {"seed": 5, "batch_size": 4, "num_epochs": 1, "dtype": torch.float32}
    config, conditioning = options.pop("config", CONFIG), options.pop("conditioning", NO_DROPOUT)
    return StreamLoader([dataset], config, conditioning, **(defaults | options))


def consumed(batches: list[Batch]) -> list[tuple[int, str]]:
    """(position, key) of every valid row, in the order of positions."""
    found = [
        (int(position), key)
        for batch in batches
        for position, key, valid in zip(batch.positions, batch.keys, batch.valid, strict=True)
        if valid and key is not None
    ]
    return sorted(found)


def read(dataset: Dataset, world_size: int, batch_size: int, state: dict[str, Any] | None, steps: int | None) -> Any:
    """Runs all ranks for some steps; returns their batches and the state after them."""
    batches, states, lengths = [], [], []
    for rank in range(world_size):
        one = loader(dataset, rank=rank, world_size=world_size, batch_size=batch_size)
        if state is not None:
            one.load_state_dict(state)
        own = list(itertools.islice(one, steps))
        states.append(one.state_dict())
        one.close()
        batches += own
        lengths.append(len(own))
    # Equal steps on all ranks, and one state.
    assert len(set(lengths)) == 1
    assert all(other == states[0] for other in states)
    return batches, states[0], lengths[0]


ALL_KEYS = Counter(row.key for rows in shard_rows().values() for row in rows)


@settings(max_examples=15)
@given(data=st.data())
def test_exactly_once_in_one_order_whatever_the_ranks_and_however_often_resumed(
    captions_only: Dataset, data: st.DataObject
) -> None:
    whole, _, _ = read(captions_only, 1, 4, None, None)
    batches: list[Batch] = []
    state = None
    for _ in range(data.draw(st.integers(1, 3))):
        world_size, batch_size = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
        more, state, _ = read(captions_only, world_size, batch_size, state, data.draw(st.integers(0, 3)))
        batches += more
    more, state, _ = read(captions_only, data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6)), state, None)
    batches += more
    assert Counter(key for _, key in consumed(batches)) == ALL_KEYS
    assert consumed(batches) == consumed(whole)
    assert state["position"] == NUM_ROWS


@pytest.mark.parametrize("merge", ["host", "device"])
@pytest.mark.parametrize("container", ["arrow", "webdataset"])
def test_values_are_those_that_were_stored(tmp_path: Path, container: Container, merge: Any) -> None:
    images = make_latent_manifest(container)
    rows = shard_rows(a=[2], f=[0, 5])
    write_dataset(str(tmp_path), make_manifest(container), {"txt": rows}, images, None)
    dataset = schemas.open_dataset(str(tmp_path))
    stored = {row.key: row for row in dataset.rows("txt")}
    of_key = {picture.key: picture for r in rows.values() for picture in pictures(images, [row.key for row in r])}
    conditioning = ConditioningConfig(dropout=(0.4, 0.4, 0.4))
    config = dataclasses.replace(CONFIG, merge=merge)
    seen = []
    for batch in loader(dataset, config=config, conditioning=conditioning):
        assert np.array_equal(batch.kept, keep_mask(5, batch.positions, (0.4, 0.4, 0.4)))
        pictured = {
            int(row): image for group in batch.latents for row, image in zip(group.rows, group.latents, strict=True)
        }
        assert sorted(pictured) == np.flatnonzero(batch.valid).tolist()
        for index in range(4):
            if not batch.valid[index]:
                assert not batch.prompt_embeds[index].any()
                continue
            key = batch.keys[index]
            assert key is not None
            wanted = assemble([stored[key]], dataset.manifest.captions, keep=batch.kept[index : index + 1])
            assert torch.equal(batch.prompt_embeds[index], wanted.prompt_embeds[0])
            assert torch.equal(batch.pooled_prompt_embeds[index], wanted.pooled_prompt_embeds[0])
            assert batch.captions[index] == stored[key].caption
            image = latents(images.latents, of_key[key])
            assert torch.equal(pictured[index], torch.from_numpy(image.astype(np.float32)))
            seen.append(key)
    assert Counter(seen) == Counter(key for key, row in stored.items() if not row.is_null)
    assert len(seen) == NUM_ROWS - 3


def test_micro_batches_are_the_valid_rows_by_size(tmp_path: Path) -> None:
    images = make_latent_manifest()
    rows = shard_rows()
    pictured = {name: pictures(images, [r.key for r in rows[name]], missing=[0]) for name in rows}
    write_dataset(str(tmp_path), make_manifest(), {"txt": rows}, images, pictured)
    shapes = set()
    total = 0
    for batch in loader(schemas.open_dataset(str(tmp_path)), batch_size=8):
        for micro in batch.micro_batches():
            shapes.add(tuple(micro.latents.shape[1:]))
            total += len(micro.latents)
            for position, embeds in zip(micro.positions, micro.prompt_embeds, strict=True):
                index = batch.positions.tolist().index(position)
                assert batch.valid[index]
                assert torch.equal(embeds, batch.prompt_embeds[index])
    # The image of the first row of every shard was rejected.
    assert total == NUM_ROWS - len(SHARDS)
    assert shapes == {images.latents.latent_shape(*size) for size in images.latents.buckets}


def test_pixels_come_from_minus_one_to_one(tmp_path: Path) -> None:
    images = make_latent_manifest(kind="pixels", buckets=((8, 8),))
    rows = {"s": samples(8)}
    write_dataset(str(tmp_path), make_manifest(), {"txt": rows}, images)
    batch = next(iter(loader(schemas.open_dataset(str(tmp_path)), batch_size=8, config=CONFIG)))
    (found,) = batch.latents
    stored = np.stack([latents(images.latents, p) for p in pictures(images, [str(key) for key in batch.keys])])
    assert torch.allclose(found.latents, torch.from_numpy(stored).float() / 127.5 - 1, atol=1e-6)
    assert found.latents.min() >= -1
    assert found.latents.max() <= 1


def test_tails(captions_only: Dataset) -> None:
    padded = list(loader(captions_only, batch_size=8))
    assert len(padded) == 5
    assert padded[-1].valid.sum() == NUM_ROWS % 8 == 7
    assert padded[-1].keys[-1] is None
    assert padded[-1].positions[-1] == -1
    dropped = list(loader(captions_only, batch_size=8, config=dataclasses.replace(CONFIG, tail="drop")))
    assert len(dropped) == 4
    assert consumed(dropped) == consumed(padded[:4])
    # The next epoch begins at the same place either way.
    assert [batch.position for batch in loader(captions_only, batch_size=8, num_epochs=2)][5] == NUM_ROWS
    config = dataclasses.replace(CONFIG, tail="drop")
    assert [batch.position for batch in loader(captions_only, batch_size=8, num_epochs=2, config=config)][4] == NUM_ROWS


def test_epochs_differ_and_each_is_whole(captions_only: Dataset) -> None:
    batches = list(loader(captions_only, batch_size=8, num_epochs=3))
    keys = [key for _, key in consumed(batches)]
    epochs = [keys[start : start + NUM_ROWS] for start in range(0, 3 * NUM_ROWS, NUM_ROWS)]
    assert all(Counter(epoch) == ALL_KEYS for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert keys != sorted(keys)


def test_a_chunk_draws_its_caption_group_anew_in_every_epoch(tmp_path: Path) -> None:
    short = shard_rows()
    long = {name: [dataclasses.replace(r, caption=f"long {r.caption}") for r in rows] for name, rows in short.items()}
    write_dataset(str(tmp_path), make_manifest(), {"txt": short, "json.long": long})
    dataset = schemas.open_dataset(str(tmp_path))
    config = dataclasses.replace(CONFIG, captions=("txt", "json.long"), caption_weights=(0.25, 0.75))
    batches = list(loader(dataset, config=config, num_epochs=40, batch_size=8))
    assert Counter(key for _, key in consumed(batches)) == Counter(dict.fromkeys(ALL_KEYS, 40))
    drawn: dict[tuple[int, str], set[bool]] = {}
    for batch in batches:
        for index in np.flatnonzero(batch.valid):
            key, caption = str(batch.keys[index]), str(batch.captions[index])
            shard, row = key.rsplit("-", 1)
            chunk = (int(batch.positions[index]) // NUM_ROWS, f"{shard} {int(row) // 4}")
            drawn.setdefault(chunk, set()).add(caption.startswith("long"))
    assert all(len(groups) == 1 for groups in drawn.values())
    assert abs(np.mean([True in groups for groups in drawn.values()]) - 0.75) < 0.06


def test_several_datasets_are_mixed_by_weight(tmp_path: Path, captions_only: Dataset) -> None:
    write_dataset(str(tmp_path), make_manifest(), {"txt": {"s": samples(30, prefix="other-")}})
    other = schemas.open_dataset(str(tmp_path))
    config = dataclasses.replace(CONFIG, dataset_weights=(0.2, 0.8))
    batches = StreamLoader([captions_only, other], config, NO_DROPOUT, seed=1, batch_size=6, dtype=torch.float32)
    found = list(itertools.islice(batches, 100))
    batches.close()
    of = np.concatenate([batch.datasets for batch in found])
    assert abs((of[of >= 0] == 1).mean() - 0.8) < 0.01
    keys = [key for _, key in consumed(found)]
    theirs = [key for key in keys if key.startswith("other-")]
    # Each dataset has its own epochs: the first 30 of the other's samples are all of it.
    assert Counter(theirs[:30]) == Counter(row.key for row in samples(30, prefix="other-"))
    assert Counter(theirs[30:60]) == Counter(theirs[:30])


def test_held_out_rows_are_never_trained_on(captions_only: Dataset) -> None:
    config = dataclasses.replace(CONFIG, holdout_rows=8)
    trained = [key for _, key in consumed(list(loader(captions_only, config=config)))]
    held = [key for _, key in consumed(list(loader(captions_only, config=config, holdout=True)))]
    assert len(held) >= 8
    assert Counter(trained) + Counter(held) == ALL_KEYS


def test_a_state_of_another_stream_is_refused(captions_only: Dataset) -> None:
    state = loader(captions_only).state_dict()
    for other in (
        loader(captions_only, seed=6),
        loader(captions_only, config=dataclasses.replace(CONFIG, num_streams=4)),
        loader(captions_only, config=dataclasses.replace(CONFIG, holdout_rows=4)),
    ):
        with pytest.raises(ContractError, match="stream-changed"):
            other.load_state_dict(state)
    # What only decides how fast batches come may change.
    loader(captions_only, config=dataclasses.replace(CONFIG, ready_batches=1, read_attempts=1)).load_state_dict(state)


def test_what_cannot_work_is_refused_at_once(tmp_path: Path, captions_only: Dataset) -> None:
    with pytest.raises(ConfigError, match="stream-memory-too-small"):
        next(iter(loader(captions_only, config=dataclasses.replace(CONFIG, memory_bytes=1000))))
    with pytest.raises(ContractError, match="latents-missing"):
        loader(captions_only, latents=True)
    with pytest.raises(ConfigError, match="empty-prompt-missing"):
        loader(captions_only, conditioning=ConditioningConfig(left_out="empty"))
    with pytest.raises(ConfigError, match=r"stream\.num-streams"):
        StreamConfig(num_streams=0)
    write_dataset(str(tmp_path), make_manifest(padding="none"), {"txt": {"s": samples(3)}})
    with pytest.raises(IdentityMismatchError, match="padding"):
        StreamLoader([captions_only, schemas.open_dataset(str(tmp_path))], CONFIG, NO_DROPOUT, seed=0, batch_size=1)


def test_datasets_mixed_by_weight_each_need_memory_for_their_own_streams(captions_only: Dataset) -> None:
    def batches(weights: tuple[float, ...] | None) -> StreamLoader:
        config = dataclasses.replace(CONFIG, dataset_weights=weights, memory_bytes=4 * largest * CONFIG.num_streams)
        return StreamLoader([captions_only, captions_only], config, NO_DROPOUT, seed=0, batch_size=2)

    largest = int(loader(captions_only).datasets[0].catalog.num_bytes.max())
    # A chunk takes three times its stored bytes; there is room for a third more than the streams of one pool.
    pooled = batches(None)
    assert len(next(iter(pooled)).keys) == 2
    pooled.close()
    with pytest.raises(ConfigError, match="stream-memory-too-small"):
        next(iter(batches((1, 1))))


def test_waiting_is_measured(captions_only: Dataset) -> None:
    stream = loader(captions_only)
    assert stream.waiting_seconds == 0
    list(stream)
    assert 0 < stream.waiting_seconds < 30


def test_an_iteration_that_is_left_ends_its_threads(captions_only: Dataset) -> None:
    def planners() -> int:
        return sum(thread.name == "stream-plan" for thread in threading.enumerate())

    before = planners()
    stream = loader(captions_only, num_epochs=None)
    for batch in stream:
        assert batch.valid.any()
        break
    gc.collect()
    time.sleep(0.2)
    assert planners() <= before
    # And the next one goes on where it was.
    assert next(iter(stream)).position == 4

"""A run that is saved and resumed goes on as if nothing had happened, and what is not whole is not used."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from schemas.errors import ConfigError, DamagedDataError, EncodeOnceError, IdentityMismatchError, StorageError
from tests.datasets import make_identity
from tests.trainer.runs import State, checkpointer, describe_run, save_run, small_model, start
from trainer import checkpoint, checkpoint_tensors
from trainer.checkpoint import CheckpointConfig, Checkpointer
from trainer.checkpoint_folder import find_checkpoint
from trainer.checkpoint_state import to_tensors
from trainer.checkpoint_tensors import make_stager
from trainer.checkpoint_weights import load_model


def values(state: State) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in to_tensors(state, rank=None).items()}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_a_resumed_run_goes_on_exactly(tmp_path: Path) -> None:
    state = save_run(tmp_path, steps=3)
    for _ in range(2):
        state.train()

    torch.manual_seed(99)
    resumed = start(small_model(seed=7))
    saver = checkpointer(tmp_path)
    latest = saver.latest()
    assert latest is not None
    saver.load(latest, resumed)
    assert (resumed.step, resumed.seconds, resumed.stream.position) == (3, 4.5, 24)
    for _ in range(2):
        resumed.train()
    assert_same(values(state), values(resumed))


def test_saves_of_a_gpu_share_their_staging_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is allocated and page-locked at the first save only, and what is saved later is none the less its own."""
    pinned: list[int] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.data_ptr())
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(checkpoint, "make_stager", lambda _: BlockingAsyncStager(cache_staged_state_dict=True))
    state, saver = start(small_model()), checkpointer(tmp_path)
    for _ in range(3):
        state.train()
        saver.save(state, state.step)
        saved = values(state)
        if state.step == 1:
            num_pinned = len(pinned)
        # The memory of the save before must not be written to while it is read.
        state.train()
    saver.wait()
    assert len(pinned) == len(set(pinned)) == num_pinned > 50
    resumed = start(small_model(seed=1))
    torch.manual_seed(99)
    saver.load(find_checkpoint(tmp_path), resumed)
    assert resumed.step == 5
    assert_same(saved, values(resumed))


def test_only_a_gpu_keeps_staging_memory() -> None:
    class OfGpu(torch.Tensor):
        is_cuda = True

    on_cpu = torch.zeros(2)
    assert not make_stager({"a": on_cpu}).cache_staged_state_dict
    assert make_stager({"a": on_cpu, "b": torch.zeros(2).as_subclass(OfGpu)}).cache_staged_state_dict


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored is the state at the call of save, though writing comes after the next step has changed it."""
    state = start(small_model())
    state.train()
    before, released = values(state), []
    really = checkpoint_tensors.HuggingFaceStorageWriter.write_data

    def slowly(*arguments: object) -> object:
        while not released:
            time.sleep(0.01)
        return really(*arguments)

    monkeypatch.setattr(checkpoint_tensors.HuggingFaceStorageWriter, "write_data", slowly)
    saver = checkpointer(tmp_path)
    saver.save(state, 1)
    state.train()
    assert saver.latest() is None
    released.append(True)
    saver.wait()
    resumed = start(small_model(seed=1))
    saver.load(find_checkpoint(tmp_path), resumed)
    assert_same(before, values(resumed))


def test_saving_waits_for_the_save_before_and_keeps_the_latest(tmp_path: Path) -> None:
    state, saver = start(small_model()), checkpointer(tmp_path, keep=2)
    for _ in range(4):
        state.train()
        saver.save(state, state.step)
    saver.save(state, state.step)
    saver.wait()
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000003", "step-00000004"]


def test_a_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    save_run(tmp_path)
    files = [path for path in find_checkpoint(tmp_path).iterdir() if path.suffix != ".json"]
    assert files
    for path in files:
        # A safetensors file: the length of a JSON header, the header, and nothing but the tensors it lists.
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        assert len(data) == end + max(v["data_offsets"][1] for k, v in header.items() if k != "__metadata__")


def test_tensors_are_spread_over_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_tensors, "_FILE_BYTES", 100_000)
    state = save_run(tmp_path)
    folder = find_checkpoint(tmp_path)
    assert len(list(folder.glob("*.safetensors"))) > 5
    resumed = start(small_model(seed=1))
    checkpointer(tmp_path).load(folder, resumed)
    assert_same(values(state), values(resumed))


@pytest.mark.parametrize("what", ["truncated", "flipped", "missing"])
@pytest.mark.parametrize("name", ["*.safetensors", "checkpoint.json", "run.json", "config.json"])
def test_a_damaged_checkpoint_is_named_with_the_one_before_it(tmp_path: Path, what: str, name: str) -> None:
    state = save_run(tmp_path)
    saver = checkpointer(tmp_path)
    state.train()
    saver.save(state, 3)
    saver.wait()
    folder = find_checkpoint(tmp_path)
    file = next(iter(folder.glob(name)))
    data = bytearray(file.read_bytes())
    if what == "missing":
        file.unlink()
    elif what == "truncated":
        file.write_bytes(data[:-1])
    else:
        data[-9] ^= 1
        file.write_bytes(data)
    for use in (lambda: saver.load(folder, state), lambda: load_model(folder)):
        with pytest.raises(DamagedDataError) as caught:
            use()
        assert caught.value.code == "checkpoint-damaged"
        assert str(file) in caught.value.where
        assert "step-00000002" in caught.value.remedy


def test_only_the_latest_checkpoint_of_its_folder_is_resumed_from(tmp_path: Path) -> None:
    state = save_run(tmp_path)
    older = find_checkpoint(tmp_path)
    saver = checkpointer(tmp_path)
    saver.save(state, 3)
    saver.wait()
    with pytest.raises(ConfigError, match="step-00000003"):
        saver.load(older, state)
    checkpointer(tmp_path / "other").load(older, state)


def test_another_run_is_refused(tmp_path: Path) -> None:
    state = save_run(tmp_path)
    folder, config = find_checkpoint(tmp_path), json.loads(small_model().to_json_string())
    padded = Checkpointer(
        tmp_path, CheckpointConfig(), run=describe_run(captions=make_identity("none")), model_config=config
    )
    with pytest.raises(IdentityMismatchError, match="padding"):
        padded.load(folder, state)
    with pytest.raises(ConfigError, match="num_layers: 2 -> 3"):
        checkpointer(tmp_path, model_config={**config, "num_layers": 3}).load(folder, state)
    with pytest.raises(ConfigError, match="moving average"):
        checkpointer(tmp_path).load(folder, start(small_model(), ema=False))
    upgraded = {**config, "_diffusers_version": "9"}
    checkpointer(tmp_path, model_config=upgraded).load(folder, state)


def test_a_save_that_fails_is_an_error_at_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_tensors.HuggingFaceStorageWriter, "write_data", full)
    state, saver = start(small_model()), checkpointer(tmp_path)
    saver.save(state, 0)
    with pytest.raises(StorageError, match="No space left"):
        saver.save(state, 1)
    assert saver.latest() is None


def test_what_a_user_names(tmp_path: Path) -> None:
    save_run(tmp_path)
    folder = tmp_path / "checkpoints/step-00000002"
    assert find_checkpoint(tmp_path) == find_checkpoint(tmp_path / "checkpoints") == find_checkpoint(folder) == folder
    for wrong in (tmp_path / "nothing", folder.parent.parent.parent):
        with pytest.raises(EncodeOnceError, match="checkpoint-missing"):
            find_checkpoint(wrong)


@pytest.mark.parametrize("values", [{"keep": 0}, {"every_steps": 0}])
def test_settings_that_mean_nothing_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        CheckpointConfig(**values)


def test_weights_of_the_average_or_of_the_last_step(tmp_path: Path) -> None:
    state = save_run(tmp_path)
    folder = find_checkpoint(tmp_path)
    assert state.ema is not None
    averaged, last = load_model(folder), load_model(folder, ema=False)
    assert_same(dict(averaged.named_parameters()), state.ema.tensors)
    assert_same(dict(last.named_parameters()), dict(state.model.named_parameters()))
    assert_same(dict(averaged.named_buffers()), dict(state.model.named_buffers()))
    assert not averaged.training
    assert load_model(folder, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_weights_of_a_run_without_average(tmp_path: Path) -> None:
    state, saver = start(small_model(), ema=False), checkpointer(tmp_path)
    saver.save(state, 0)
    saver.wait()
    model: nn.Module = load_model(find_checkpoint(tmp_path))
    assert_same(dict(model.named_parameters()), dict(state.model.named_parameters()))

"""Saving and resuming a training run.

Every rank writes and reads its own shards with torch.distributed.checkpoint (`trainer.checkpoint_tensors`). Saving
copies the tensors to host memory, then writes in the background while training goes on; `trainer.checkpoint_folder`
tells how a checkpoint becomes complete. There is no pickle in a checkpoint: reading one cannot run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from schemas.errors import ConfigError
from schemas.identity import require_same
from schemas.local_files import replace_local
from trainer.checkpoint_document import (
    DOCUMENT_NAME,
    MODEL_CONFIG_NAME,
    RUN_NAME,
    CheckpointDocument,
    CheckpointFile,
    RunDescription,
    dump_model_config,
    read_model_config,
    read_run,
)
from trainer.checkpoint_folder import (
    CHECKPOINTS,
    complete_checkpoints,
    describe_file,
    open_checkpoint,
    publish,
    remove,
    remove_unfinished,
    step_name,
    verify_files,
)
from trainer.checkpoint_ranks import Ranks
from trainer.checkpoint_state import TrainingState, load_tensors, random_state_names, to_tensors
from trainer.checkpoint_tensors import finish_writing, make_stager, read_tensors, start_writing


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are saved and how many are kept."""

    every_steps: int = 1000
    """Optimizer steps from one checkpoint to the next; the run's last step is always saved."""

    keep: int = 3
    """The latest checkpoints that are kept."""

    def __post_init__(self) -> None:
        """Refuses numbers that would save or keep nothing."""
        for name, value in (("every-steps", self.every_steps), ("keep", self.keep)):
            if value < 1:
                raise ConfigError(
                    "option-out-of-range",
                    where=f"--checkpoint.{name}",
                    expected="a number above 0",
                    actual=str(value),
                    remedy="choose another value, or leave the option out",
                )


class Checkpointer:
    """Saves and loads the checkpoints of one run. Everything but `latest` is collective: all ranks call it alike.

    Making one removes what a killed run left half-written, so it is for the run that writes; readers use
    `trainer.checkpoint_weights`.

    Args:
        folder: The run's output folder, on a file system that all ranks share.
        config: When and how many.
        run: Stored with every checkpoint; its identities and `model_config` must be those of a checkpoint to load.
        model_config: The model's configuration in diffusers' form, as it was before the model was parallelised.
    """

    def __init__(
        self, folder: Path, config: CheckpointConfig, *, run: RunDescription, model_config: Mapping[str, Any]
    ) -> None:
        self._folder = folder / CHECKPOINTS
        self._config = config
        self._run = run
        self._model_config = dump_model_config(model_config)
        self._ranks = Ranks()
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._last_step: int | None = None
        self._stager: BlockingAsyncStager | None = None
        self._ranks.first(lambda: remove_unfinished(self._folder))

    def latest(self) -> Path | None:
        """The latest complete checkpoint of the run."""
        complete = complete_checkpoints(self._folder)
        return complete[-1] if complete else None

    def save(self, state: TrainingState, step: int) -> None:
        """Starts saving; the state may change as soon as this returns. Waits for an earlier save first.

        A step that was just saved or loaded is not saved again.

        Raises:
            StorageError: The earlier save failed.
        """
        self.wait()
        if step == self._last_step:
            return
        self._last_step = step
        complete = self._folder / step_name(step)
        writing = complete.with_name(f"{complete.name}.writing")
        tensors = to_tensors(state, rank=self._ranks.rank)
        stream = state.stream.state_dict()
        document = CheckpointDocument(
            step=step,
            seconds=state.seconds,
            position=stream["position"],
            world_size=self._ranks.world_size,
            device_type=_device_type(),
            has_ema=state.ema is not None,
            stream=stream,
            files=(),
        )
        if self._stager is None:
            self._stager = make_stager(tensors)
        upload = start_writing(
            writing,
            tensors,
            self._stager,
            other_names=[name for rank in range(self._ranks.world_size) for name in random_state_names(rank)],
            group=self._ranks.group,
            world_size=self._ranks.world_size,
        )
        self._pending = self._finisher.submit(self._finish, upload, document, writing, complete)

    def wait(self) -> None:
        """Waits until nothing is being saved.

        Raises:
            StorageError: The save failed, on some rank; the checkpoint does not exist.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def load(self, path: Path, state: TrainingState) -> None:
        """Resumes: puts a checkpoint's content into `state`, whatever number of ranks wrote it.

        Each rank's random generators are restored too if as many ranks wrote it; otherwise they stay as they are.

        Raises:
            DamagedDataError: A file is not what was written; nothing was changed.
            IdentityMismatchError, ConfigError: It belongs to another dataset, model or configuration.
        """
        document = self._ranks.gather(lambda: self._opened(path, state))[0]
        rank: int | None = self._ranks.rank
        if (document.world_size, document.device_type) != (self._ranks.world_size, _device_type()):
            rank = None
        tensors = to_tensors(state, rank=rank)
        read_tensors(path, tensors, group=self._ranks.group)
        load_tensors(state, tensors, rank=rank)
        state.stream.load_state_dict(document.stream)
        state.step = self._last_step = document.step
        state.seconds = document.seconds

    def _opened(self, path: Path, state: TrainingState) -> CheckpointDocument:
        document = open_checkpoint(path)
        # The ranks share the reading of the bytes.
        verify_files(path, document.files[self._ranks.rank :: self._ranks.world_size])
        self._require_latest(path)
        stored = read_run(path)
        require_same(stored.captions, self._run.captions, where=str(path))
        require_same(stored.latents, self._run.latents, where=str(path))
        _require_same_model(path, read_model_config(path), json.loads(self._model_config))
        if document.has_ema != (state.ema is not None):
            raise ConfigError(
                "checkpoint-ema",
                where=str(path),
                expected=f"a run {'with' if document.has_ema else 'without'} a moving average of the weights",
                actual=f"a run {'without' if document.has_ema else 'with'} one",
                remedy="resume with the options the run was started with",
            )
        return document

    def _require_latest(self, path: Path) -> None:
        complete = complete_checkpoints(self._folder)
        if path in complete[:-1]:
            later = ", ".join(other.name for other in complete[complete.index(path) + 1 :])
            raise ConfigError(
                "checkpoint-not-latest",
                where=str(path),
                expected="the latest checkpoint of the run: a run that went on from an older one would mix two",
                actual=f"there are later ones: {later}",
                remedy=f"move them out of {self._folder}, or resume with another --output",
            )

    def _finish(self, upload: Future[Any], document: CheckpointDocument, writing: Path, complete: Path) -> None:
        """In the background, on every rank, once DCP has written the tensors: lists them, then makes them count."""
        own = finish_writing(upload, writing, self._ranks.rank)
        listed = self._ranks.gather(lambda: [describe_file(path) for path in own])
        files = [file for of_rank in listed for file in of_rank]
        self._ranks.first(lambda: self._complete(document, files, writing, complete))

    def _complete(
        self, document: CheckpointDocument, files: list[CheckpointFile], writing: Path, complete: Path
    ) -> None:
        assert {path.name for path in writing.iterdir()} == {file.name for file in files}
        for name, data in ((RUN_NAME, self._run.dump()), (MODEL_CONFIG_NAME, self._model_config)):
            replace_local(writing / name, data)
            files.append(describe_file(writing / name))
        replace_local(writing / DOCUMENT_NAME, document.model_copy(update={"files": tuple(files)}).dump())
        publish(writing, complete)
        for old in complete_checkpoints(self._folder)[: -self._config.keep]:
            remove(old)


def _device_type() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _require_same_model(path: Path, stored: Mapping[str, Any], actual: Mapping[str, Any]) -> None:
    # What begins with an underscore is of diffusers' own making: its version, the name of the class.
    names = sorted(name for name in {*stored, *actual} if not name.startswith("_"))
    lines = [f"{n}: {stored.get(n)} -> {actual.get(n)}" for n in names if stored.get(n) != actual.get(n)]
    if lines:
        raise ConfigError(
            "checkpoint-model",
            where=str(path),
            expected="the model that the checkpoint was made of",
            actual="these settings differ (checkpoint -> this run):\n    " + "\n    ".join(lines),
            remedy="resume with the preset and options the run was started with, or choose another --output",
        )

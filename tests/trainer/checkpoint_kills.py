"""`python -m tests.trainer.checkpoint_kills FOLDER`: processes that are killed while they save, at chosen moments.

Each moment gets a folder with a checkpoint of step 2 and a process that dies by SIGKILL while it saves step 3. They are
forked from this one, so that torch is imported once.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import patch

import torch

from tests.trainer.runs import checkpointer, save_run
from trainer import checkpoint, checkpoint_tensors


def die(*_: object, **__: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def torn_file(*_: object) -> Any:
    """Half a tensor file, as a full write buffer leaves it."""
    folder = next(path for path in Path(sys.argv[1], "tensors/checkpoints").iterdir() if path.suffix == ".writing")
    (folder / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"half")
    die()


def torn_removal(folder: Path) -> Any:
    next(iter(folder.glob("*.safetensors"))).unlink()
    die()


def later(seconds: float) -> None:
    Thread(target=lambda: (time.sleep(seconds), die()), daemon=True).start()


MOMENTS: dict[str, tuple[object, str, Callable[..., Any]]] = {
    "staged": (checkpoint, "start_writing", die),
    "tensors": (checkpoint_tensors.HuggingFaceStorageWriter, "write_data", torn_file),
    "listing": (checkpoint, "describe_file", die),
    "document": (checkpoint, "publish", die),
    "renamed": (checkpoint, "remove", die),
    "removing": (shutil, "rmtree", torn_removal),
}
TIMES = [0.005, 0.02, 0.05]


def save_and_die(folder: Path, moment: str) -> None:
    torch.set_num_threads(1)
    state = save_run(folder)
    state.train()
    saver = checkpointer(folder, keep=1)
    if moment in MOMENTS:
        with patch.object(*MOMENTS[moment][:2], MOMENTS[moment][2]):
            saver.save(state, 3)
            saver.wait()
    else:
        later(float(moment))
        saver.save(state, 3)
        saver.wait()
        time.sleep(1)


def main(folder: Path) -> None:
    children = {}
    for moment in [*MOMENTS, *map(str, TIMES)]:
        child = os.fork()
        if child == 0:
            save_and_die(folder / moment, moment)
            os._exit(0)
        children[child] = moment
        _, status = os.waitpid(child, 0)
        print(moment, os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

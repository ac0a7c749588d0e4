"""Checkpoints as folders: which are complete, whether their bytes are still those written, and how they come and go.

    <run>/checkpoints/step-00001000/           complete: renamed into place after all of it was written and fsynced
        checkpoint.json                        sealed; every other file with its size and xxh3
        run.json, config.json                  the run and the model (trainer.checkpoint_document)
        shard-00001-model-00001-of-00002.safetensors, ...
    <run>/checkpoints/step-00002000.writing/   being written, or its writer was killed: never read, removed at the start
    <run>/checkpoints/step-00000500.removing/  being removed: likewise

A folder's name is the only mark of completeness, and a rename is atomic, so there is no moment at which a kill leaves
something that looks complete and is not. What happens to the bytes later is found by sizes (checked whenever a
checkpoint is opened) and checksums (checked before tensors are used). Damage is an error that names the file and the
older checkpoint to go back to: quietly resuming days earlier is not for a program to decide.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

import xxhash

from schemas.errors import DamagedDataError, EncodeOnceError, MissingObjectError
from schemas.local_files import fsync_folder
from trainer.checkpoint_document import DOCUMENT_NAME, CheckpointDocument, CheckpointFile, read_document

CHECKPOINTS = "checkpoints"
_COMPLETE = re.compile(r"^step-(\d{8,})$")
_UNFINISHED = re.compile(r"^step-\d{8,}\.(writing|removing)$")
_BLOCK_BYTES = 8 * 1024**2


def step_name(step: int) -> str:
    """The name of a step's folder."""
    return f"step-{step:08d}"


def complete_checkpoints(folder: Path) -> list[Path]:
    """The step folders in a `checkpoints` folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _COMPLETE.match(path.name))]
    return [path for _, path in sorted(found)]


def find_checkpoint(path: Path) -> Path:
    """The step folder that a user's `--checkpoint` means.

    Args:
        path: A step folder, or a run's output folder, which means its latest checkpoint.

    Raises:
        MissingObjectError: No complete checkpoint is there.
    """
    if (path / DOCUMENT_NAME).is_file() and not _UNFINISHED.match(path.name):
        return path
    complete = complete_checkpoints(path / CHECKPOINTS) or complete_checkpoints(path)
    if not complete:
        raise MissingObjectError(
            "checkpoint-missing",
            where=str(path),
            expected="the output folder of a training run that has saved a checkpoint, or one of its step folders",
            actual="no complete checkpoint" if path.exists() else "no such folder",
            remedy="wait for the run's first checkpoint, or correct the path",
        )
    return complete[-1]


def open_checkpoint(folder: Path) -> CheckpointDocument:
    """Reads a step folder's document and checks that every file is there in its full size.

    Raises:
        DamagedDataError: Something is missing, truncated or unreadable; names the file and an older checkpoint.
        ContractError: The document is of another version.
    """
    try:
        document = read_document(folder)
    except (DamagedDataError, MissingObjectError) as error:
        raise damaged(folder, error.where, error.expected, error.actual) from error
    for file in document.files:
        path = folder / file.name
        actual = path.stat().st_size if path.is_file() else None
        if actual != file.num_bytes:
            raise damaged(
                folder, str(path), f"{file.num_bytes} bytes", "no such file" if actual is None else f"{actual} bytes"
            )
    return document


def verify_files(folder: Path, files: Iterable[CheckpointFile]) -> None:
    """Checks that files hold the bytes that were written.

    Raises:
        DamagedDataError: A checksum differs; names the file and an older checkpoint.
    """
    for file in files:
        path = folder / file.name
        actual = file_checksum(path)
        if actual != file.xxh3_64:
            raise damaged(folder, str(path), f"xxh3_64 {file.xxh3_64}", f"xxh3_64 {actual}")


def describe_file(path: Path) -> CheckpointFile:
    """The entry of a file that was just written."""
    return CheckpointFile(name=path.name, num_bytes=path.stat().st_size, xxh3_64=file_checksum(path))


def file_checksum(path: Path) -> str:
    """XXH3-64 of a file's bytes, in hex."""
    hasher = xxhash.xxh3_64()
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
    return hasher.hexdigest()


def damaged(folder: Path, where: str, expected: str, actual: str) -> EncodeOnceError:
    """The error for a checkpoint that is not what was written, with the way out of it."""
    older = list(takewhile(lambda path: path != folder, complete_checkpoints(folder.parent)))
    away = f"move {folder} out of {folder.parent}"
    return DamagedDataError(
        "checkpoint-damaged",
        where=where,
        expected=expected,
        actual=actual,
        remedy=f"{away}; the same command then goes back to {older[-1].name}, the latest before it"
        if older
        else f"restore the file from a copy, or {away} and start anew: there is no older checkpoint",
    )


def publish(writing: Path, complete: Path) -> None:
    """Makes a fully written folder a checkpoint, durably."""
    fsync_folder(writing)
    os.rename(writing, complete)
    fsync_folder(complete.parent)


def remove(folder: Path) -> None:
    """Removes a checkpoint so that a kill in the middle leaves nothing that looks complete."""
    removing = folder.with_name(f"{folder.name}.removing")
    os.rename(folder, removing)
    fsync_folder(folder.parent)
    shutil.rmtree(removing)


def remove_unfinished(folder: Path) -> list[str]:
    """Removes what killed writers left in a `checkpoints` folder. Returns the names."""
    left = [path for path in folder.iterdir() if _UNFINISHED.match(path.name)] if folder.is_dir() else []
    for path in left:
        shutil.rmtree(path)
    return sorted(path.name for path in left)

"""A server, its users' environment, and the commands as users give them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

import schemas
from schemas.identity import ENCODER_NAMES
from schemas.storage import Store
from trainer.conditioning import ConditioningConfig
from trainer.stream.config import StreamConfig
from trainer.stream.loader import StreamLoader

REPOSITORY = Path(__file__).resolve().parents[2]
BUCKET = "encode-once"
_SECONDS = 3000


@dataclass
class Stage:
    """Where a scenario plays. All of it is in a network of its own, whose only address is loopback.

    Attributes:
        folder: For tars, datasets and logs.
        bucket: Its URL.
        settings: Environment of the commands, with the endpoint and the credentials.
        endpoint_variable: Which of them is the server's address.
        secret_variable: Which of them nobody may be told.
        tars: Folder of the inputs, which are in the bucket too, below `tars`.
        expected: Dataset that an undisturbed command makes of them in a folder.
    """

    folder: Path
    bucket: str
    settings: Mapping[str, str]
    endpoint_variable: str
    secret_variable: str
    tars: Path
    expected: Path

    @property
    def inputs(self) -> str:
        """The tars in the bucket."""
        return f"{self.bucket}/tars"

    def keys(self, prefix: str) -> list[str]:
        """Names of all objects below a prefix, as the server itself has them, past any proxy."""
        with mock.patch.dict(os.environ, self.settings):
            return [found.path for found in Store(self.bucket).list(prefix.rstrip("/"))]

    def read(self, key: str) -> bytes:
        """An object of the server's, by its name."""
        with mock.patch.dict(os.environ, self.settings):
            return Store(self.bucket).get(key)


def start(*arguments: str, module: str = "pipeline", **variables: str) -> subprocess.Popen[str]:
    """Starts `python -m module arguments`, in this process's network."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "AZURE_"))}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,
        env=own | {"OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*arguments: str, module: str = "pipeline", expect: Sequence[int] = (0,), **variables: str) -> str:
    """Runs it to its end and returns what it printed, after checking its exit status."""
    with start(*arguments, module=module, **variables) as process:
        try:
            output, _ = process.communicate(timeout=_SECONDS)
        except BaseException:
            process.kill()
            raise
    assert process.returncode in expect, f"exit status {process.returncode}\n{output[-6000:]}"
    return output


def encode(inputs: object, dataset: object) -> tuple[str, ...]:
    """The job's command line."""
    where = ("--input", str(inputs), "--output", str(dataset))
    return ("encode", "demo", *where, "--latents", "pixels", "--num-workers", "1", "--chunk-rows", "8")


def require_equal(expected: str, actual: str) -> None:
    """Both datasets have the same rows, bit for bit, and the trainer reads the same keys in the same order."""
    left, right = (schemas.open_dataset(url) for url in (expected, actual))
    assert left.groups == right.groups
    for one, other in zip(left.rows("txt"), right.rows("txt"), strict=True):
        assert (one.key, one.caption) == (other.key, other.caption)
        for name in ENCODER_NAMES:
            assert np.array_equal(one[name].hidden, other[name].hidden), one.key
    for first, second in zip(left.latent_rows(), right.latent_rows(), strict=True):
        assert first.key == second.key
        assert np.array_equal(first.latents, second.latents), first.key
    assert epoch(expected) == epoch(actual)


def epoch(url: str) -> list[str]:
    """The keys that the trainer's stream gives in an epoch."""
    config = StreamConfig(num_streams=4, memory_bytes=64 * 1024**2)
    loader = StreamLoader([schemas.open_dataset(url)], config, ConditioningConfig(), seed=3, batch_size=8, num_epochs=1)
    return [key for batch in loader for key in batch.keys if key is not None]

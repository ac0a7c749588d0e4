"""Every hostile file costs an error: the right one, soon, in little memory, and from a bucket as from a folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.encoders.tensor_files import TensorFiles
from schemas.errors import ConfigError
from tests.s3_server import s3_bucket, s3_server
from tests.security import hostile_datasets, hostile_tars
from tests.security.cases import Hostile

WAS_RUN = Path("/tmp/encode-once-was-run")
"""What the pickle would make."""

MOST_MB = 200
"""Beyond what is there when a reader begins; an epoch of an honest dataset of this size takes 125 MB."""
MOST_SECONDS = 60.0
"""On a machine that does much else; none takes more than three when it is alone."""

CASES = {hostile.name: hostile for hostile in (*hostile_tars.case.found, *hostile_datasets.case.found)}
# What can be put into a bucket: no pipes, links or files of a terabyte; sources are local.
IN_BUCKETS = [name for name in CASES if not any(word in name for word in ("pipe", "link", "terabyte", "source"))]
READINGS = [(name, reader) for name, hostile in CASES.items() for reader in hostile.expected]


def write(hostile: Hostile, folder: Path) -> str:
    """Makes a case; returns what a reader is given below the folder."""
    folder.mkdir(parents=True)
    hostile.write(folder)
    return "/x.tar" if "pipeline" in hostile.expected else ""


def read_all(arguments: list[str]) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "tests.security.measure", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {argument: json.loads(line) for argument, line in zip(arguments, done.stdout.splitlines(), strict=True)}


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    root = tmp_path_factory.mktemp("hostile")
    arguments = {}
    for number, (name, hostile) in enumerate(CASES.items()):
        below = write(hostile, root / str(number))
        for reader in hostile.expected:
            arguments[name, reader] = f"{reader}={root / str(number)}{below}"
    found = read_all(list(arguments.values()))
    return {reading: found[argument] for reading, argument in arguments.items()}


@pytest.mark.parametrize(("name", "reader"), READINGS, ids=[f"{reader}-{name}" for name, reader in READINGS])
def test_it_costs_an_error(readings: dict[tuple[str, str], dict[str, Any]], name: str, reader: str) -> None:
    found = readings[name, reader]
    assert CASES[name].expected[reader] in found["codes"]
    assert "check-failed" not in found["codes"]
    assert found["mb"] < MOST_MB
    assert found["seconds"] < MOST_SECONDS


def test_no_pickle_was_run(readings: dict[tuple[str, str], dict[str, Any]]) -> None:
    assert ("pickles among the members", "pipeline") in readings
    assert not WAS_RUN.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_weights_that_are_a_pickle_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"pytorch_model{suffix}"
    path.write_bytes(hostile_tars.PICKLE)
    with pytest.raises(ConfigError, match="weights-unreadable"):
        TensorFiles([path])
    assert not WAS_RUN.exists()


@pytest.fixture(scope="module")
def bucket_readings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], dict[str, Any]]]:
    root = tmp_path_factory.mktemp("uploaded")
    arguments = {}
    with s3_server() as endpoint, s3_bucket(endpoint, "hostile") as client:
        for number, name in enumerate(IN_BUCKETS):
            below = write(CASES[name], root / str(number))
            for path in (root / str(number)).rglob("*"):
                if path.is_file():
                    client.upload_file(str(path), "hostile", str(path.relative_to(root)))
            for reader in CASES[name].expected:
                arguments[name, reader] = f"{reader}=s3://hostile/{number}{below}"
        found = read_all(list(arguments.values()))
        yield {reading: found[argument] for reading, argument in arguments.items()}


@pytest.mark.parametrize("name", IN_BUCKETS)
def test_it_costs_the_same_error_in_a_bucket(bucket_readings: dict[tuple[str, str], dict[str, Any]], name: str) -> None:
    for reader, code in CASES[name].expected.items():
        found = bucket_readings[name, reader]
        assert code in found["codes"]
        assert found["mb"] < MOST_MB
        assert found["seconds"] < MOST_SECONDS

"""Random single-bit flips in every file of a dataset: the validator names the file, the trainer stops before using it.

    python -m tests.chaos.bit_flips --flips 20 --output flips.json

Each flip is made in place, looked for, and taken back. The validator is the command, with `--level checksums`; the
trainer is its loader over one epoch, from opening it on. A manifest, a ledger record, the index or a chunk with
a flip must end it with an error that names the file, and no batch before that may differ from the undamaged one.

What the trainer never reads cannot harm it. Of a part it reads the chunks alone: for a flip in what lies around them
(Arrow's schema and footer, a tar's end) the epoch must be the undamaged one to the bit. The ledger's records are not
read while there is an index, so they are tried without one. Rejects are for the validator alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import schemas
from schemas.errors import EncodeOnceError
from schemas.validator import validate
from tests.datasets import make_latent_manifest, make_manifest, samples, write_dataset
from trainer.conditioning import ConditioningConfig
from trainer.stream import fetch
from trainer.stream.config import StreamConfig
from trainer.stream.loader import StreamLoader

CONTAINERS = ("arrow", "webdataset")
_STREAM = StreamConfig(num_streams=2, num_threads=1, num_readers=2, read_attempts=2)
_SHARDS = {"a": 9, "b/c": 6}


@dataclass
class Tally:
    """What was tried.

    Attributes:
        flips: By container and kind of file, those made.
        trained: Those that the trainer was tried on and must find.
        unread: Those that the trainer was tried on, and that lie where it never reads.
        missed: What was not found, each as a sentence.
    """

    flips: Counter[str] = field(default_factory=Counter)
    trained: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)


def write(folder: Path, container: Any) -> None:
    """A dataset of captions and latents in several parts and chunks, with a reject in each group."""
    rows = {name: samples(size, missing=[2], prefix=f"{name}-") for name, size in _SHARDS.items()}
    write_dataset(
        str(folder),
        make_manifest(container),
        {"txt": rows},
        make_latent_manifest(container),
    )


def flip_every_file(folder: Path, container: str, num_flips: int, seed: int, *, as_command: bool) -> Tally:
    """Flips bits in every file of a dataset.

    Args:
        folder: The dataset; as it was when this returns.
        container: Its container, for the counts.
        num_flips: Flips a file, one at a time.
        seed: Of the places.
        as_command: Whether the validator is run as a process, or called.
    """
    tally, places = Tally(), random.Random(f"{seed}/{container}")
    undamaged, chunks = list(_epoch(folder)), _chunks(folder)
    for name in sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()):
        kind = f"{container} {name.split('/')[0].split('.')[0]}"
        for _ in range(num_flips):
            bit = places.randrange(8 * (folder / name).stat().st_size)
            with _flipped(folder / name, bit):
                found = _validated(folder) if as_command else _called(folder)
                tally.flips[kind] += 1
                if name not in found:
                    tally.missed.append(f"{container}/{name}, bit {bit}: the validator named {sorted(found)}")
                if not name.startswith("rejects/"):
                    is_read = not name.startswith("shards/") or any(bit // 8 in chunk for chunk in chunks[name])
                    (tally.trained if is_read else tally.unread)[kind] += 1
                    problem = _try_trainer(folder, name, undamaged, is_read=is_read)
                    tally.missed += [f"{container}/{name}, bit {bit}: {problem}"] if problem else []
    return tally


def _try_trainer(folder: Path, name: str, undamaged: list[Any], *, is_read: bool) -> str | None:
    """What is wrong with how the trainer takes it; None if nothing is."""
    moved = _moved_away(folder / "index.arrow") if name.startswith("ledger/") else contextlib.nullcontext()
    number = 0
    with moved:
        try:
            for number, batch in enumerate(_epoch(folder), 1):
                if batch != undamaged[number - 1]:
                    return f"the trainer used other values in batch {number}"
        except EncodeOnceError as error:
            return None if is_read and name in str(error) else f"the trainer's error is another one: {error}"
    if is_read:
        return "the trainer noticed nothing"
    return None if number == len(undamaged) else f"the trainer had {number} batches"


def _chunks(folder: Path) -> dict[str, list[range]]:
    """The bytes of each part that a reader of its chunks reads."""
    found: dict[str, list[range]] = {}
    dataset = schemas.open_dataset(str(folder))
    for group in dataset.groups:
        for shard in dataset.shards(group):
            for part in dataset.record(group, shard).parts:
                ranges = [range(chunk.offset, chunk.offset + chunk.num_bytes) for chunk in part.chunks]
                found[f"shards/{shard}/{part.name}"] = ranges
    return found


def _epoch(folder: Path) -> Iterator[tuple[object, ...]]:
    """What the trainer uses in an epoch, comparable."""
    loader = StreamLoader(
        [schemas.open_dataset(str(folder))],
        _STREAM,
        ConditioningConfig(dropout=(0, 0, 0)),
        seed=3,
        batch_size=4,
        num_epochs=1,
        dtype=torch.float32,
    )
    try:
        for batch in loader:
            tensors = [batch.prompt_embeds, batch.pooled_prompt_embeds, *(one.latents for one in batch.latents)]
            yield (tuple(batch.keys), tuple(batch.captions), *(tensor.numpy().tobytes() for tensor in tensors))
    finally:
        loader.close()


def _validated(folder: Path) -> set[str]:
    """The files that the command finds fault with; none if its exit status says that all is well."""
    command = [sys.executable, "-m", "schemas", "validate", str(folder), "--level", "checksums", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 1:
        return set()
    return {finding["file"] for finding in json.loads(done.stdout)["findings"]}


def _called(folder: Path) -> set[str]:
    return {finding.file for finding in validate(str(folder), "checksums").findings}


@contextlib.contextmanager
def _flipped(file: Path, bit: int) -> Iterator[None]:
    honest = file.read_bytes()
    damaged = bytearray(honest)
    damaged[bit // 8] ^= 1 << bit % 8
    file.write_bytes(damaged)
    try:
        yield
    finally:
        file.write_bytes(honest)


@contextlib.contextmanager
def _moved_away(file: Path) -> Iterator[None]:
    away = file.parent.parent / "moved-away"
    file.rename(away)
    try:
        yield
    finally:
        away.rename(file)


def main() -> int:
    """Exit status 1 if a flip was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.bit_flips", description=__doc__.split("\n")[0])
    parser.add_argument("--flips", type=int, default=20, help="of each file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--in-process", action="store_true", help="call the validator instead of running the command")
    parser.add_argument("--output", type=Path, help="JSON document of what was found")
    options = parser.parse_args()
    fetch._FIRST_PAUSE_SECONDS = 0.01  # A damaged file stays damaged; only the time to the error is shorter.
    began, total = time.monotonic(), Tally()
    for container in CONTAINERS:
        with tempfile.TemporaryDirectory(prefix="flips-") as own:
            folder = Path(own) / "dataset"
            write(folder, container)
            one = flip_every_file(folder, container, options.flips, options.seed, as_command=not options.in_process)
        total.flips += one.flips
        total.trained += one.trained
        total.unread += one.unread
        total.missed += one.missed
    report = {
        "seed": options.seed,
        "flips_a_file": options.flips,
        "validator": "in process" if options.in_process else "command",
        "flips": dict(total.flips),
        "to_be_found_by_the_trainer": dict(total.trained),
        "where_the_trainer_never_reads": dict(total.unread),
        "missed": total.missed,
        "seconds": round(time.monotonic() - began, 1),
    }
    text = json.dumps(report, indent=1)
    if options.output is not None:
        options.output.write_text(text + "\n")
    print(text)
    return 1 if total.missed else 0


if __name__ == "__main__":
    sys.exit(main())

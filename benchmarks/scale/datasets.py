"""Inputs and ledgers of many shards, without their data."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from schemas.ledger import LedgerRecord, load_record, record_path
from schemas.manifest import LATENT_MANIFEST_PATH, MANIFEST_PATH
from schemas.storage import Store

GROUP = "txt"
_SAMPLES = 512
"""Of the one tar that is encoded: eight chunks of the demo's 64 rows, whose record all shards get."""


_LINKS = 10_000
"""Names of a file; file systems bound them."""


def shard_name(number: int) -> str:
    """Names of equal length, in order."""
    return f"{number:06d}"


def make_inputs(folder: Path, count: int) -> None:
    """Tars that are named and listed, never read: of no samples, a file under many names."""
    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"{shard_name(number)}.tar"
        if number % _LINKS == 0:
            content = path
            content.write_bytes(bytes(10_240))
        else:
            os.link(content, path)


def encode_one(folder: Path) -> Path:
    """A dataset of one shard, encoded as users do it, with the demo's encoders."""
    tars, dataset = folder / "one-tar", folder / "one-shard"
    _pipeline("demo-data", str(tars), "--num-shards", "1", "--samples-per-shard", str(_SAMPLES))
    _pipeline("encode", "demo", "--input", str(tars), "--output", str(dataset))
    return dataset


def _pipeline(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pipeline", *arguments], check=True, stdout=subprocess.DEVNULL)


def copy_manifests(one: Path, dataset: Path) -> None:
    """What the dataset of one shard is, the others are."""
    dataset.mkdir(parents=True)
    for name in (MANIFEST_PATH, LATENT_MANIFEST_PATH):
        if (one / name).exists():
            (dataset / name).write_bytes((one / name).read_bytes())


def only_record(dataset: Path) -> LedgerRecord:
    """The record of a dataset of one shard."""
    (path,) = (dataset / "ledger").rglob("*.json")
    return load_record(path.read_bytes(), where=str(path))


def renamed(record: LedgerRecord, shard: str) -> bytes:
    """The stored bytes of a record like this for another shard: its digests are its own, as they do not compress."""

    def digest(of: str) -> str:
        return hashlib.sha256(f"{shard} {of}".encode()).hexdigest()

    parts = tuple(
        part.model_copy(
            update={
                "sha256": digest(part.name),
                "chunks": tuple(
                    chunk.model_copy(update={"xxh3_64": digest(f"{part.name} {chunk.offset}")[:16]})
                    for chunk in part.chunks
                ),
            }
        )
        for part in record.parts
    )
    return record.model_copy(update={"shard": shard, "keys_sha256": digest("keys"), "parts": parts}).dump()


def make_ledger(one: Path, dataset: Path, count: int) -> None:
    """Commits `count` shards: their records, sealed and in their places. There are no parts."""
    copy_manifests(one, dataset)
    record, store = only_record(one), Store(str(dataset))
    for number in range(count):
        store.create(record_path(GROUP, shard_name(number)), renamed(record, shard_name(number)))


def link_half(whole: Path, half: Path, count: int) -> None:
    """A dataset that has the first half of another's ledger."""
    copy_manifests(whole, half)
    (half / "ledger" / GROUP).mkdir(parents=True)
    for number in range(count // 2):
        path = record_path(GROUP, shard_name(number))
        os.link(whole / path, half / path)

"""Targets that are whole datasets: a part or a record is changed and sealed again; validator and trainer read it."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

from schemas.dataset import open_dataset
from schemas.documents import seal
from schemas.errors import EncodeOnceError
from schemas.index import dump_index
from schemas.manifest import Container
from schemas.parts import check_chunk
from schemas.storage import Store
from schemas.validator import validate
from tests.fuzz.containers import mutate_message
from tests.fuzz.mutations import mutate_bytes, mutate_json
from tests.fuzz.scratch import scratch_folder
from tests.fuzz.target import Finding, Target
from tests.fuzz.tars import mutate_tar
from tests.golden.damage_dataset import Victim, golden_manifest
from tests.golden.make_damage import FOLDER, UNDAMAGED
from trainer.stream.catalog import Catalog
from trainer.stream.plan import ChunkId
from trainer.stream.source import ChunkReader, StreamedDataset

RECORD = "ledger/txt/a/0000.json"


@functools.cache
def _honest(container: Container) -> Path:
    return Path(shutil.copytree(FOLDER / container / UNDAMAGED, scratch_folder("honest") / container))


def _victim(container: Container) -> Victim:
    folder = scratch_folder(f"victim-{container}")
    shutil.rmtree(folder)
    shutil.copytree(_honest(container), folder)
    return Victim(folder, golden_manifest(container))


def _make_part(container: Container, random: Random) -> bytes:
    part = Victim(_honest(container), golden_manifest(container)).part()
    data = part.read_bytes()
    if container == "webdataset":
        changed = mutate_tar(random, data)
    elif random.random() < 0.5:
        changed = mutate_bytes(random, data)
    else:
        chunk = Victim(_honest(container), golden_manifest(container)).record().parts[0].chunks[0]
        end = chunk.offset + chunk.num_bytes
        changed = data[: chunk.offset] + mutate_message(random, data[chunk.offset : end]) + data[end:]
    return changed[: len(data)].ljust(len(data), b"\0")


def _read_part(container: Container, data: bytes) -> str:
    victim = _victim(container)
    try:
        victim.reseal_part(data)
    except AssertionError:
        return "not this long"
    return _read_dataset(str(victim.folder))


def _make_record(random: Random) -> bytes:
    body: dict[str, Any] = json.loads((_honest("arrow") / RECORD).read_bytes())
    del body["sha256"]
    changed = mutate_json(random, body)
    try:
        return seal(changed) if isinstance(changed, dict) and "sha256" not in changed else b"{}\n"
    except (ValueError, RecursionError):
        return b"{}\n"


def _read_record(data: bytes) -> str:
    """A record that is sealed, and in an index that is sealed: what only the reader's own checks can refuse."""
    victim = _victim("arrow")
    store = Store(str(victim.folder))
    store.replace(RECORD, data)
    names = [
        (info.path.split("/")[1], info.path.split("/", 2)[2].removesuffix(".json")) for info in store.list("ledger")
    ]
    records = {name: store.get(f"ledger/{name[0]}/{name[1]}.json") for name in names}
    try:
        store.replace("index.arrow", dump_index(records, victim.manifest.identity_sha256, where="x"))
    except (KeyError, TypeError, OverflowError, ValueError):
        store.delete(["index.arrow"])
    return _read_dataset(str(victim.folder))


def _read_dataset(url: str) -> str:
    report = validate(url, "values", source=False)
    broken = [finding for finding in report.findings if finding.code == "check-failed"]
    if broken:
        raise Finding(f"the validator: {broken[0].file}: {broken[0].actual}")
    try:
        outcome = _train(url)
    except EncodeOnceError as error:
        str(error)
        outcome = error.code
        if report.ok:
            raise Finding(f"valid, and the trainer says {error}") from error
    return outcome if not report.ok else "valid"


def _train(url: str) -> str:
    """What the trainer does with every chunk, but for the model."""
    dataset = open_dataset(url)
    catalog = Catalog(dataset, ["txt"], latents=False)
    reader = ChunkReader([StreamedDataset(dataset, catalog, None)], None, 0, [1.0])  # type: ignore[arg-type]
    for number in range(len(catalog.rows_per_chunk)):
        refs = catalog.refs(number, 0)
        found = []
        for ref in refs:
            path = f"shards/{ref.shard}/{ref.part.name}"
            data = dataset.store.get_buffer(path, ref.chunk.offset, ref.chunk.num_bytes)
            check_chunk(data, ref.chunk, where=path)
            found.append((ref, data))
        chunk = reader.decode(ChunkId(0, 0, number), found)
        for row in range(catalog.rows_per_chunk[number]):
            chunk.captions.key(row), chunk.captions.caption(row)
            for column in (*chunk.captions.hidden.values(), *chunk.captions.pooled.values()):
                [int(plane.sum()) for plane in column.row(row)]
    return "trained"


DATASETS = (
    *(
        Target(
            f"dataset-{container}",
            functools.partial(_make_part, container),
            functools.partial(_read_part, container),
            25,
        )
        for container in ("arrow", "webdataset")
    ),
    Target("dataset-record", _make_record, _read_record, 50),
)

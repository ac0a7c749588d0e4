"""What the clusters of the tests encode, and what must hold afterwards."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import schemas
from schemas.validator import validate
from tests.cluster.ray_hosts import REPOSITORY, RayHosts

NUM_SHARDS = 8
OPTIONS = ("--columns", "txt", "json.long_caption", "--chunk-rows", "8")
NUM_RECORDS = NUM_SHARDS * 2


def make_inputs(folder: Path) -> Path:
    """Tars of the demo's pictures; every seventh has no caption, which makes rejects."""
    made = folder / "made"
    arguments = ["demo-data", str(made), "--num-shards", str(NUM_SHARDS), "--samples-per-shard", "16"]
    subprocess.run([sys.executable, "-m", "pipeline", *arguments], cwd=REPOSITORY, check=True, capture_output=True)
    tars = folder / "tars"
    tars.mkdir()
    for path in sorted(made.glob("*.tar")):
        with tarfile.open(path) as source, tarfile.open(tars / path.name, "w") as target:
            captions = 0
            for member in source:
                captions += member.name.endswith(".txt")
                if member.name.endswith(".txt") and captions % 7 == 0:
                    continue
                content = source.extractfile(member)
                target.addfile(member, None if content is None else io.BytesIO(content.read()))
    return tars


def encode(tars: Path | str, dataset: Path | str, *options: str) -> list[str]:
    """The arguments of `python -m pipeline`."""
    return ["encode", "demo", "--input", str(tars), "--output", str(dataset), *OPTIONS, *options]


def undisturbed(cluster: RayHosts, tars: Path, dataset: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What a job makes that nothing is done to. Needs a node."""
    finish(cluster, cluster.driver(*encode(tars, dataset), name="undisturbed"), "undisturbed")
    return contents(dataset)


def finish(
    cluster: RayHosts, driver: subprocess.Popen[str], name: str, *, seconds: float = 1200, expect: int = 0
) -> str:
    """Waits for a driver's end, and returns what it printed."""
    status = driver.wait(timeout=seconds)
    output = cluster.log(name).read_text()
    assert status == expect, f"{name}: exit status {status}\n{output}"
    return output


def ledger(dataset: Path) -> dict[str, bytes]:
    """Every record's bytes, by path."""
    return {str(path): path.read_bytes() for path in sorted((dataset / "ledger").rglob("*.json"))}


def contents(dataset: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Each record, but for who wrote it and when: digests of all parts and rejects are in it. All is checked first."""
    report = validate(str(dataset), "values")
    assert report.ok, [str(finding) for finding in report.findings]
    opened = schemas.open_dataset(str(dataset))
    records = {(group, shard): opened.record(group, shard) for group in opened.groups for shard in opened.shards(group)}
    assert len(records) == NUM_RECORDS == len(ledger(dataset))
    return {name: record.model_dump(exclude={"writer"}) for name, record in records.items()}


def writers(dataset: Path) -> set[str]:
    """The hosts that committed something."""
    opened = schemas.open_dataset(str(dataset), source="ledger")
    return {opened.record(group, shard).writer.host for group in opened.groups for shard in opened.shards(group)}


def left_over(dataset: Path) -> list[str]:
    """Objects that no record refers to, half-written files, leases."""
    report = validate(str(dataset), "structure")
    names = [str(finding) for finding in report.findings]
    return names + [str(path) for path in dataset.rglob("*") if path.suffix == ".alive" or ".tmp-" in path.name]


def paced(folder: Path, **variables: str) -> dict[str, str]:
    """Variables of a host whose worker takes as much longer for a shard as `set_pace` says."""
    if not (folder / "pace").exists():
        set_pace(folder, 0.0)
    faults = Path(__file__).parent / "faults"
    path = os.pathsep.join([str(faults), str(REPOSITORY)])
    return {"PYTHONPATH": path, "ENCODE_ONCE_PACE": str(folder / "pace"), **variables}


def set_pace(folder: Path, seconds: float) -> None:
    """How much longer a shard takes from now on, for those at hand too."""
    new = folder / "pace.new"
    new.write_text(str(seconds))
    new.replace(folder / "pace")

"""Our loader beside five others on the same values: `python -m benchmarks.loader`.

Every loader gives shuffled batches of 16 samples of Stable Diffusion 3's conditioning (77 tokens of each encoder),
assembled to bfloat16 [16, 154, 4096] and [16, 2048], on two cores, its files in the page cache. First all must give the
same values, key by key. Then each is tried with several numbers of workers or threads, and measured with the best; the
measurements of all loaders alternate, and the median counts. docs/benchmarks-loader.md says how to read the figures.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.loader import values
from benchmarks.loader.child import Job
from benchmarks.loader.environment import peers_python, peers_versions
from benchmarks.loader.loaders import FORMATS, LOADERS, Loader
from pipeline.provenance import library_versions

_ROOT = Path(__file__).parents[2]
_JOB_SECONDS = 300


@dataclass(frozen=True)
class Config:
    """What to measure."""

    samples: int = 1024
    """Samples of every format; each takes 0.6 to 1 MB in each of ten formats."""
    data: Path = _ROOT / "benchmarks" / ".data"
    """Where the formats and the environment of the other loaders are made, once."""
    repetitions: int = 3
    """Measurements of each loader."""
    seconds: float = 5.0
    """Of each measurement."""
    tune_seconds: float = 2.0
    """Of each measurement that chooses the number of workers."""
    batch_size: int = 16
    """Samples of a batch."""
    cores: int = 2
    """Processor cores that each loader may use."""
    only: tuple[str, ...] = ()
    """Measure only loaders whose name contains one of these. Default: all."""
    verify: bool = True
    """Compare all loaders' values first."""
    output: Path | None = None
    """Where to write the figures as JSON."""


@dataclass(frozen=True)
class Row:
    """A loader's figures.

    Attributes:
        loader: Which.
        options: With which it was measured.
        tried: Samples a second with each of the options that were tried.
        rates: Samples a second of each repetition.
        cpu_ms: Processor time a sample, the median.
        sample_bytes: Stored bytes a sample.
    """

    loader: Loader
    options: dict[str, Any]
    tried: dict[str, float]
    rates: list[float]
    cpu_ms: float
    sample_bytes: float

    @property
    def rate(self) -> float:
        """Samples a second: the median."""
        return statistics.median(self.rates)


class Benchmark:
    """Runs jobs, each in a process of its own."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._peers = peers_python(config.data / "peers-venv")
        self._folder = config.data / f"loader-{config.samples}"
        self.versions = peers_versions(self._peers)
        self.loaders = [
            found for found in LOADERS if not config.only or any(part in found.name for part in config.only)
        ]

    def write(self) -> None:
        """Writes what is not there yet."""
        self._folder.mkdir(parents=True, exist_ok=True)
        made = [self._folder / f"{name}.written" for name in FORMATS]
        source = self._folder / "values"
        for name, marker in zip(FORMATS, made, strict=True):
            if marker.exists():
                continue
            print(f"writing {name}", flush=True)
            if not source.exists():
                values.write_values(source, self._config.samples)
            self._run(Job("write", name, str(self._folder / name), values=str(source)), peer=name != "ours")
            marker.touch()
        source.unlink(missing_ok=True)

    def verify(self) -> None:
        """Compares every loader's values with ours, for an epoch.

        Raises:
            RuntimeError: They differ.
        """
        expected: dict[str, str] | None = None
        for loader in LOADERS:
            if not loader.comparable:
                continue
            options = self._settings(loader)[-1]
            found = self._run(replace(self._job(loader, options), action="digest"), peer=loader.is_peer)
            expected = expected or found
            if found != expected or len(found) != self._config.samples:
                raise RuntimeError(f"{loader.name} gives other values than ours")
        print(f"all loaders give the same {self._config.samples} samples", flush=True)

    def measure(self) -> list[Row]:
        """All loaders, in turn."""
        chosen = {loader: self._tune(loader) for loader in self.loaders}
        found: dict[Loader, list[dict[str, float]]] = {loader: [] for loader in self.loaders}
        for number in range(self._config.repetitions):
            for loader in self.loaders:
                found[loader].append(self._run(self._job(loader, chosen[loader][0]), peer=loader.is_peer))
                print(f"{number + 1} {loader.name}: {found[loader][-1]['samples_per_second']:,.0f}", flush=True)
        return [
            Row(
                loader,
                *chosen[loader],
                [one["samples_per_second"] for one in found[loader]],
                statistics.median(one["cpu_ms_per_sample"] for one in found[loader]),
                _num_bytes(self._folder / loader.files) / self._config.samples,
            )
            for loader in self.loaders
        ]

    def _tune(self, loader: Loader) -> tuple[dict[str, Any], dict[str, float]]:
        """The best options, and what each gave."""
        settings = self._settings(loader)
        if len(settings) == 1:
            return settings[0], {}
        tried = {}
        for options in settings:
            job = replace(self._job(loader, options), seconds=self._config.tune_seconds)
            tried[json.dumps(options)] = self._run(job, peer=True)["samples_per_second"]
        best = max(tried, key=tried.__getitem__)
        print(f"{loader.name}: {best}", flush=True)
        return json.loads(best), tried

    def _settings(self, loader: Loader) -> list[dict[str, Any]]:
        if not loader.is_peer:
            return [{}]
        return self._run(replace(self._job(loader, {}), action="options"), peer=True)[loader.batches]

    def _job(self, loader: Loader, options: dict[str, Any]) -> Job:
        config, folder = self._config, str(self._folder / loader.module)
        return Job(
            "measure",
            loader.module,
            folder,
            batches=loader.batches,
            options=options,
            batch_size=config.batch_size,
            cores=config.cores,
            seconds=config.seconds,
        )

    def _run(self, job: Job, *, peer: bool) -> dict[str, Any]:
        if job.action == "measure":
            _warm(Path(job.folder))
        command = [str(self._peers) if peer else sys.executable, *job.arguments()]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=_JOB_SECONDS)
        if done.returncode:
            raise RuntimeError(f"{job}\n{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])


def main(config: Config) -> None:
    benchmark = Benchmark(config)
    benchmark.write()
    if config.verify:
        benchmark.verify()
    rows = benchmark.measure()
    _print(rows, config)
    if config.output is not None:
        config.output.parent.mkdir(parents=True, exist_ok=True)
        config.output.write_text(json.dumps(_facts(rows, config, benchmark.versions), indent=2) + "\n")


def _print(rows: list[Row], config: Config) -> None:
    table = Table(title=f"batches of {config.batch_size}, {config.cores} cores, page cache")
    for heading in ("loader", "samples/s", "of ours", "CPU ms a sample", "kB a sample", "workers"):
        table.add_column(heading)
    ours = next((row.rate for row in rows if row.loader.kind == "ours"), None)
    for row in rows:
        share = "" if ours is None else f"{row.rate / ours:.2f}"
        chosen = ", ".join(f"{name} {value}" for name, value in row.options.items())
        table.add_row(
            row.loader.name, f"{row.rate:,.0f}", share, f"{row.cpu_ms:.2f}", f"{row.sample_bytes / 1e3:,.0f}", chosen
        )
    Console(width=120).print(table)
    for name, value in _ratios(rows).items():
        print(f"{name}: {value:.2f}")


def _ratios(rows: list[Row]) -> dict[str, float]:
    """The comparisons that the project has set itself."""
    rates: dict[str, list[float]] = {}
    for row in rows:
        rates.setdefault(row.loader.kind, []).append(row.rate)
    out = {}
    for kind, title in (("documented", "as documented"), ("tuned", "with our assembly")):
        if "ours" in rates and kind in rates:
            out[f"ours to the best other loader {title}"] = rates["ours"][0] / max(rates[kind])
    beside = [rate for row in rows if row.loader.kind == "documented" for rate in _rates_beside_training(row)]
    if "ours" in rates and beside:
        out["ours to the best other loader as documented, in worker processes"] = rates["ours"][0] / max(beside)
    if len(rates.get("part of ours", [])) == 3:
        staged, decoded, level_1 = rates["part of ours"]
        out["planes for a GPU to decoding alone"] = staged / decoded
        out["planes for a GPU to decoding alone of what Arrow compresses"] = staged / level_1
    return out


def _rates_beside_training(row: Row) -> list[float]:
    """With worker processes; without any the training process does the loader's work itself and stands still."""
    tried = [rate for name, rate in row.tried.items() if json.loads(name).get("workers", 0) > 0]
    return [*tried, *([row.rate] if row.options.get("workers", 0) > 0 else [])]


def _facts(rows: list[Row], config: Config, peers: dict[str, str]) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{config.cores} of {os.cpu_count()} cores, {platform.machine()}, no GPU",
        "load_average": os.getloadavg()[0],
        "versions": library_versions(),
        "versions_of_the_others": peers,
        "samples": config.samples,
        "batch_size": config.batch_size,
        "ratios": {name: round(value, 3) for name, value in _ratios(rows).items()},
        "rows": [
            {
                "loader": row.loader.name,
                "kind": row.loader.kind,
                "samples_per_second": round(row.rate, 1),
                "repetitions": [round(rate, 1) for rate in row.rates],
                "cpu_ms_per_sample": round(row.cpu_ms, 3),
                "bytes_per_sample": round(row.sample_bytes),
                "options": row.options,
                "tried": {name: round(rate, 1) for name, rate in row.tried.items()},
            }
            for row in rows
        ],
    }


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _warm(folder: Path) -> None:
    """Reads all files, so that they are in the page cache."""
    buffer = bytearray(1 << 22)
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


if __name__ == "__main__":
    main(tyro.cli(Config))

"""Throughput of the write path: encoded captions become parts of a dataset, in any number of threads, without a GPU.

    python -m benchmarks.write_path --output benchmarks/results/write-path.json

Measured is all that follows the encoders: hidden states of the real widths (made up as in `benchmarks.loader.values`,
so that they compress as real ones do) are split into byte planes, packed, compressed, hashed and stored in a local
folder. In the same run:

- the bare parts: splitting, compressing and hashing the same bytes, one after the other in one thread. Divided by the
  number of cores, the sum of their processor times is what the cores allow; beside it, the same with writing the file;
- an earlier commit, taken from git's history, in a process of its own that takes turns with this one's.

A number of cores limits the cores that the process may run on, and its threads. What was written is read back and
compared with the values; all runs, and the earlier commit's, must write files of the same content-addressed names.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pipeline.provenance import library_versions

_REPOSITORY = Path(__file__).resolve().parent.parent
_BARE = ("split", "compress", "xxh3", "sha256")
"""What is compared with; the child measures more."""
_FILE = "write file"


@dataclass(frozen=True)
class Config:
    """What to measure."""

    presets: tuple[Literal["sd3", "compact"], ...] = ("sd3", "compact")
    """Captions padded to 77 tokens; or not padded, of 25 tokens on average."""
    captions: int = 1024
    """Of the shard that is written."""
    cores: tuple[int, ...] = ()
    """Numbers of cores; default: 1, 2, 4 and so on, as many as there are."""
    repetitions: int = 5
    """Of each measurement; the fastest counts."""
    baseline: str = "0183df2"
    """Commit to compare with: the last one whose chunks were encoded one after the other."""
    folder: Path | None = None
    """Where datasets are written; default: the machine's temporary folder. One in memory leaves the disk out."""
    output: Path | None = None
    """Where to write the figures as JSON."""


def main(config: Config) -> None:
    with tempfile.TemporaryDirectory(dir=config.folder) as folder:
        roots, baseline = {"now": _REPOSITORY}, Path(folder) / "baseline"
        missing = extract(_REPOSITORY, config.baseline, baseline)
        if missing is None:
            roots["baseline"] = baseline
        else:
            print(f"commit {config.baseline} is left out: {missing}", file=sys.stderr)
        about = {
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "date": datetime.now(UTC).date().isoformat(),
            "versions": library_versions(),
            "captions": config.captions,
            "baseline": {"commit": config.baseline, "left_out": missing},
            "presets": {preset: _measured(preset, config, roots, folder) for preset in config.presets},
        }
    print(table(about))
    if config.output is not None:
        config.output.write_text(json.dumps(about, indent=1) + "\n")


def extract(repository: Path, commit: str, target: Path) -> str | None:
    """Writes the packages of a commit to a folder.

    Returns:
        None; or why it could not be done, such as a copy of the sources without their history.
    """
    clone = ["git", "clone", "--quiet", "--shared", "--no-checkout", str(repository), str(target)]
    checkout = ["git", "-C", str(target), "checkout", "--quiet", commit, "--", "schemas", "pipeline", "benchmarks"]
    try:
        for command in (clone, checkout):
            subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return str(getattr(error, "stderr", None) or error).strip().splitlines()[0]
    return None


class _Child:
    """A process that writes with the packages of one commit."""

    def __init__(self, root: Path) -> None:
        # -P: the child's own folder must not be searched for modules.
        command = [sys.executable, "-P", str(_REPOSITORY / "benchmarks" / "write_path_child.py")]
        # Packages may be installed in folders that only the path names; the commit's own come first.
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
        )

    def __enter__(self) -> _Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Its answer to a request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"a process ended: {request}")
        found: dict[str, Any] = json.loads(answer)
        return found


def _measured(preset: str, config: Config, roots: dict[str, Path], folder: str) -> dict[str, Any]:
    """One preset's figures."""
    available = (
        sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    )
    numbers = config.cores or tuple(2**n for n in range(8) if 2**n <= len(available))
    bare: dict[str, float] = {}
    rows = []
    with contextlib.ExitStack() as stack:
        children = {name: stack.enter_context(_Child(root)) for name, root in roots.items()}
        for child in children.values():
            child.ask(do="prepare", preset=preset, captions=config.captions)
        expected = children["now"].ask(do="check", cores=available, folder=folder)
        for number in numbers:
            best: dict[str, dict[str, Any]] = {}
            for _ in range(config.repetitions):
                for name, child in children.items():
                    found = child.ask(do="write", cores=available[:number], folder=folder)
                    if found["parts"] != expected["parts"]:
                        raise SystemExit(f"{name}, {number} cores: other files than those that were checked")
                    if name not in best or found["seconds"] < best[name]["seconds"]:
                        best[name] = found
                once = children["now"].ask(do="bare", cores=available[:1], folder=folder)
                bare = {part: min(us, bare.get(part, us)) for part, us in once.items()}
            rows.append((number, best))
    return {
        "bytes_per_caption": round(expected["num_bytes"] / config.captions),
        "cpu_us_per_caption_of_one_thread": {part: round(one, 1) for part, one in bare.items()},
        "rows": [_row(number, config.captions, bare, best) for number, best in rows],
    }


def _row(cores: int, captions: int, bare: dict[str, float], best: dict[str, dict[str, Any]]) -> dict[str, Any]:
    rates = {name: captions / found["seconds"] for name, found in best.items()}
    us = sum(bare[part] for part in _BARE)
    row: dict[str, Any] = {
        "cores": cores,
        "captions_per_second": round(rates["now"], 1),
        "cpu_us_per_caption": _cpu_us(best["now"], captions),
        "allowed_captions_per_second": round(1e6 * cores / us, 1),
        "share_of_allowed": round(rates["now"] * us / 1e6 / cores, 3),
        "share_of_allowed_with_file": round(rates["now"] * (us + bare[_FILE]) / 1e6 / cores, 3),
    }
    if "baseline" in rates:
        row["baseline_captions_per_second"] = round(rates["baseline"], 1)
        row["baseline_cpu_us_per_caption"] = _cpu_us(best["baseline"], captions)
        row["times_baseline"] = round(rates["now"] / rates["baseline"], 2)
    return row


def _cpu_us(found: dict[str, Any], captions: int) -> float:
    return round(1e6 * float(found["cpu_seconds"]) / captions, 1)


def table(about: dict[str, Any]) -> str:
    """The figures in Markdown."""
    lines = [
        "| preset, cores | captions/s | of what the bare parts allow | and the file | times the commit before |",
        "|---|---|---|---|---|",
    ]
    for preset, found in about["presets"].items():
        for row in found["rows"]:
            times = f"{row['times_baseline']:.2f}" if "times_baseline" in row else "not measured"
            rates = f"{row['captions_per_second']:,.0f} | {row['share_of_allowed']:.2f}"
            rates += f" | {row['share_of_allowed_with_file']:.2f}"
            lines.append(f"| `{preset}`, {row['cores']} | {rates} | {times} |")
    lines += ["", "| processor time, µs a caption | " + " | ".join(f"`{preset}`" for preset in about["presets"]) + " |"]
    lines.append("|---|" + "---|" * len(about["presets"]))
    presets = about["presets"].values()
    for part in next(iter(presets))["cpu_us_per_caption_of_one_thread"]:
        shares = [found["cpu_us_per_caption_of_one_thread"][part] for found in presets]
        lines.append(f"| {part}, alone | " + " | ".join(f"{share:,.0f}" for share in shares) + " |")
    for name, field in (("the whole path", "cpu_us_per_caption"), ("the commit before", "baseline_cpu_us_per_caption")):
        used = [found["rows"][-1].get(field) for found in presets]
        cells = ["not measured" if one is None else f"{one:,.0f}" for one in used]
        lines.append(f"| {name}, {next(iter(presets))['rows'][-1]['cores']} cores | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    # Here, so that other programs can run this one without it.
    import tyro

    main(tyro.cli(Config))

"""Checks and figures of everything that runs on a GPU, within ten minutes: docs/gpu-runs.md.

    python -m benchmarks.gpu --minutes 10 --output benchmarks/results/gpu-2026-12-01

Sections run in order of importance, each in a process of its own and within its share of the time and what is spare.
Each leaves NAME.json and NAME.log in the output folder as it goes, and report.md says what is there so far. Exit status
0: every section ran to its end and every check held. Figures that miss their target do not change it.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.result import ERROR, OUT_OF_TIME, PASSED, Result, report, write_atomically
from benchmarks.gpu.section import SIZES

_ROOT = Path(__file__).parents[2]
_END_SECONDS = 3.0
"""Kept back for the report."""
_LOG_LINES = 60


@dataclass(frozen=True)
class Section:
    """A section.

    Attributes:
        name: Of its files.
        target: Its function, as "module:function"; called with a `Context`.
        seconds: Its share of ten minutes. It may also take what nobody has a share of, and what those before it left.
    """

    name: str
    target: str
    seconds: float


SECTIONS = (
    Section("environment", "benchmarks.gpu.environment:run", 20),
    Section("captions-narrow", "benchmarks.gpu.captions:narrow", 90),
    Section("captions", "benchmarks.gpu.captions:real", 60),
    Section("latents", "benchmarks.gpu.latents:run", 25),
    Section("upload", "benchmarks.gpu.upload:run", 25),
    Section("kernels", "benchmarks.gpu.kernels:run", 45),
    Section("encoding", "benchmarks.gpu.encoding:run", 140),
    Section("training-step", "benchmarks.gpu.commands:training_step", 90),
    Section("write-path", "benchmarks.gpu.commands:write_path", 30),
    Section("profile", "benchmarks.gpu.profile:run", 40),
)


def main() -> None:
    options = _options()
    sections = [section for section in SECTIONS if options.only is None or section.name in options.only]
    options.output.mkdir(parents=True, exist_ok=True)
    results = run_sections(
        sections,
        seconds=60 * options.minutes,
        output=options.output,
        data=options.data,
        options=["--size", options.size, "--device", options.device, "--cores", str(options.cores)],
    )
    print((options.output / "report.md").read_text(), flush=True)
    sys.exit(0 if all(result.status == PASSED for result in results) else 1)


def run_sections(
    sections: Sequence[Section], *, seconds: float, output: Path, data: Path | None, options: Sequence[str]
) -> list[Result]:
    """Runs sections one after the other; what becomes of one does not keep the next from running.

    Args:
        sections: In order.
        seconds: For all of them.
        output: Folder of the documents, logs and the report. Files of earlier runs of these sections are replaced.
        data: Folder for temporary files; None: the system's.
        options: Of `benchmarks.gpu.section`, for all of them.
    """
    ends, results = time.monotonic() + seconds, []
    names = [section.name for section in sections]
    made = f"`python -m benchmarks.gpu {' '.join(options)}`, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC."
    for index, section in enumerate(sections):
        limit = limit_seconds(
            [one.seconds for one in sections[index:]], ends - time.monotonic() - _END_SECONDS, seconds
        )
        print(f"\n=== {section.name}, {limit:.0f} s at most", flush=True)
        with tempfile.TemporaryDirectory(prefix=f"{section.name}-", dir=data) as folder:
            results.append(_run(section, [*options, "--data", folder], limit, output))
        print(f"=== {section.name}: {results[-1].status} after {results[-1].seconds:.0f} s", flush=True)
        write_atomically(output / "report.md", report(results, names, made))
    return results


def limit_seconds(shares: Sequence[float], left: float, total: float) -> float:
    """What the next section may take: its share, and all time in which no later one has a share.

    Args:
        shares: Of ten minutes, of the next section and those after it.
        left: Of the run.
        total: Of the run.
    """
    scaled = [share * total / 600 for share in shares]
    if sum(scaled) > left:
        return max(1.0, left * scaled[0] / sum(scaled))
    return scaled[0] + left - sum(scaled)


def _run(section: Section, options: Sequence[str], limit: float, output: Path) -> Result:
    path, log = output / f"{section.name}.json", output / f"{section.name}.log"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu.section", section.target, "--name", section.name]
    command += ["--output", str(output.resolve()), "--seconds", str(limit), *options]
    started = time.monotonic()
    with log.open("wb") as file, _group(command, file) as process:
        try:
            process.wait(limit)
            in_time = True
        except subprocess.TimeoutExpired:
            in_time = False
    text = log.read_text(errors="replace")
    result = Result.load(path) if path.exists() else Result(section.name, path)
    result.seconds, result.limit_seconds = round(time.monotonic() - started, 1), round(limit, 1)
    if not in_time:
        result.status, result.error = OUT_OF_TIME, _end(text)
    elif result.status is None or (result.status == PASSED and process.returncode):
        # It ended without a word, as of a signal, perhaps after its work.
        result.status, result.error = ERROR, f"exit status {process.returncode}\n{_end(text)}"
    result.save()
    return result


@contextmanager
def _group(command: Sequence[str], log: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which is ended with everything that it started."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        cwd=_ROOT,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _end(text: str) -> str:
    return "\n".join(text.splitlines()[-_LOG_LINES:])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="for everything")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--only", nargs="+", choices=[section.name for section in SECTIONS], help="these sections")
    parser.add_argument("--size", choices=sorted(SIZES), default="full", help="tiny: to see that everything runs")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="threads of a section (default: all cores)")
    parser.add_argument("--data", type=Path, help="folder for temporary files, some 20 GB (default: the system's)")
    return parser.parse_args()


if __name__ == "__main__":
    main()

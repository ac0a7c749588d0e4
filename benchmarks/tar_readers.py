"""Reads the captions of one tar three ways: ours, Python's tarfile, and WebDataset's reader.

    python -m benchmarks.tar_readers --num-samples 4000
    python -m benchmarks.tar_readers --num-samples 100000 --image-bytes 0

Writes a tar in img2dataset's layout (image, JSON, caption), then runs each reader in a process of its own, three times,
and takes the fastest. All must find the same captions. Memory is the peak above what the process had when its imports
were done, so that what a library's import costs is not counted; the captions that are returned are. The tar is in
the page cache.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from pipeline.sources import list_inputs, scan_tar

Captions = dict[str, str]


@dataclass(frozen=True)
class Result:
    seconds: float
    peak_bytes: int
    digest: int


def write_tar(path: Path, num_samples: int, image_bytes: int) -> None:
    """Random images, captions of 5 to 60 words."""
    draw = random.Random(0)
    words = [f"word{number}" for number in range(500)]
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for number in range(num_samples):
            caption = " ".join(draw.choices(words, k=draw.randint(5, 60)))
            about = {
                "caption": caption,
                "url": f"https://example.org/{number}.jpg",
                "key": f"{number:09d}",
                "width": 512,
            }
            for field, data in (
                ("jpg", draw.randbytes(image_bytes)),
                ("json", json.dumps(about).encode()),
                ("txt", caption.encode()),
            ):
                if field == "jpg" and image_bytes == 0:
                    continue
                info = tarfile.TarInfo(f"{number:09d}.{field}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def prepare_ours(path: Path) -> Callable[[], Captions]:
    inputs = list_inputs(str(path))

    def read() -> Captions:
        scan = scan_tar(inputs.store, inputs.tars[0], ["txt"])
        texts = scan.captions("txt", 0, len(scan.keys))
        return {key: text for key, text in zip(scan.keys, texts, strict=True) if text is not None}

    return read


def prepare_tarfile(path: Path) -> Callable[[], Captions]:
    def read() -> Captions:
        found = {}
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if info.name.endswith(".txt") and (file := tar.extractfile(info)):
                    found[info.name.removesuffix(".txt")] = file.read().decode()
                # It would keep every member it has seen.
                tar.members = []
        return found

    return read


def prepare_webdataset(path: Path) -> Callable[[], Captions]:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    def read() -> Captions:
        with open(path, "rb") as stream:
            samples = group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}]))
            return {sample["__key__"]: sample["txt"].decode() for sample in samples}

    return read


READERS = {"encode-once": prepare_ours, "Python tarfile": prepare_tarfile, "webdataset": prepare_webdataset}


def measure(reader: str, path: Path) -> Result:
    """Runs in a fresh process."""
    read = READERS[reader](path)
    before = resident_bytes()
    seconds = []
    digest = 0
    for _ in range(3):
        start = time.perf_counter()
        found = read()
        seconds.append(time.perf_counter() - start)
        digest = hash(tuple(sorted(found.items())))
        del found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Result(min(seconds), peak - before, digest)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(num_samples: int = 4000, image_bytes: int = 20_000) -> None:
    """Prints one line a reader.

    Args:
        num_samples: Samples in the tar.
        image_bytes: Size of each image; 0 for none.
    """
    os.environ["PYTHONHASHSEED"] = "0"
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.tar"
        write_tar(path, num_samples, image_bytes)
        title = f"{num_samples:,} samples, images of {image_bytes:,} bytes, {path.stat().st_size / 1e6:,.0f} MB"
        results = {}
        for reader in READERS:
            with spawn.Pool(1) as pool:
                results[reader] = pool.apply(measure, (reader, path))
    assert len({result.digest for result in results.values()}) == 1, "the readers found different captions"
    Console().print(make_table(title, num_samples, results))


def make_table(title: str, num_samples: int, results: dict[str, Result]) -> Table:
    table = Table("reader", "samples/s", "ours is faster by", "peak memory, MB", title=title)
    ours = results["encode-once"].seconds
    for reader, result in results.items():
        rate = f"{num_samples / result.seconds:,.0f}"
        table.add_row(reader, rate, f"{result.seconds / ours:.1f}", f"{result.peak_bytes / 1e6:.1f}")
    return table


if __name__ == "__main__":
    tyro.cli(main)

"""Reads hostile files, each in a process of its own with little memory to be had, and says what that cost.

    python -m tests.security.measure READER=PATH ...

Prints a line of JSON for each. The process that forks the others has everything imported and nothing begun, so that
what is measured is the reading.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import sys
import time
from pathlib import Path

import schemas
from pipeline.latents.images import ImageReader
from pipeline.latents.options import ImageConfig
from pipeline.latents.pixel_budget import PixelBudget
from pipeline.sources import list_inputs, scan_tar
from pipeline.sources.caption_text import Fault
from schemas.errors import EncodeOnceError
from schemas.validator import validate
from trainer.conditioning.config import ConditioningConfig
from trainer.stream.config import StreamConfig
from trainer.stream.loader import StreamLoader

MORE_ADDRESS_SPACE = 3 * 2**30
"""What a reader may map beyond what is there when it begins; stacks of threads count, used or not."""

MOST_SECONDS = 180.0


def pipeline(path: str) -> list[str]:
    """Captions and images of a tar, up to the encoder."""
    inputs = list_inputs(path)
    found: list[str] = []
    for images in (False, True):
        columns = [] if images else ["txt", "json.caption"]
        scan = scan_tar(inputs.store, inputs.tars[0], columns, images=images)
        for column in [*columns, *(["latents"] if images else [])]:
            found += [reject.code for reject in scan.rejects_of(column)]
        for column in columns:
            texts = scan.captions(column, 0, len(scan.keys))
            found.append(f"{len(texts) - texts.count(None)} captions")
        reader = ImageReader([(256, 256)], ImageConfig(resolution=256), PixelBudget(64_000_000))
        pictures = scan.images(0, len(scan.keys)) if images else []
        found += [read.code for data in pictures if data and isinstance(read := reader.read(data), Fault)]
    if "good" not in scan.keys:
        return ["the sound sample is lost"]
    return found


def validator(url: str) -> list[str]:
    """Every check there is."""
    return sorted(validate(url, "values").counts)


def trainer(url: str) -> list[str]:
    """An epoch."""
    conditioning = ConditioningConfig(dropout=(0, 0, 0))
    config = StreamConfig(num_threads=2, num_readers=2, ready_batches=2, read_attempts=1, read_timeout_seconds=20)
    loader = StreamLoader([schemas.open_dataset(url)], config, conditioning, seed=0, batch_size=4, num_epochs=1)
    return ["trained" for _ in loader][:1]


READERS = {"pipeline": pipeline, "validator": validator, "trainer": trainer}


def measure(reader: str, path: str) -> dict[str, object]:
    """Reads in a fork."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        _read(reader, path, sending)
    os.close(sending)
    ready, _, _ = select.select([receiving], [], [], MOST_SECONDS)
    if not ready:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(receiving, "rb") as answer:
        data = answer.read()
    _, status = os.waitpid(child, 0)
    found = json.loads(data) if data else {"codes": [f"died: {status}" if ready else "hung"], "mb": 0, "seconds": 0}
    return {"reader": reader, "path": path, **found}


def _read(reader: str, path: str, sending: int) -> None:
    """In the child: never returns."""
    mapped, used = _of_process("VmSize"), _of_process("VmRSS")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MORE_ADDRESS_SPACE,) * 2)
    Path("/proc/self/clear_refs").write_text("5")
    started = time.monotonic()
    try:
        codes = READERS[reader](path)
    except EncodeOnceError as error:
        codes = [error.code]
    except BaseException as error:
        codes = [f"{type(error).__name__}: {str(error)[:200]}"]
    taken = time.monotonic() - started
    found = {"codes": codes, "mb": round((_of_process("VmHWM") - used) / 1e6, 1), "seconds": round(taken, 3)}
    os.write(sending, json.dumps(found).encode())
    os._exit(0)


def _of_process(field: str) -> int:
    """A number of bytes of /proc/self/status."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, _, where = argument.partition("=")
        print(json.dumps(measure(name, where)), flush=True)

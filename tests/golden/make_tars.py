"""Writes `tars/`: the tars from hell, small, and `expected.json`, what must be read from each.

    python -m tests.golden.make_tars

What is expected was written by hand, here, beside the bytes. Bytes depend on nothing but this file and `tar_bytes.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.golden.hell_damage import DAMAGED
from tests.golden.hell_names import NAMES
from tests.golden.hell_samples import SAMPLES
from tests.golden.hell_tar import HellTar

FOLDER = Path(__file__).parent / "tars"


def all_tars() -> tuple[HellTar, ...]:
    return (*SAMPLES, *NAMES, *DAMAGED)


def expected_json() -> bytes:
    text = json.dumps({tar.name: tar.expected() for tar in all_tars()}, indent=1, ensure_ascii=True)
    return (text + "\n").encode()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for tar in all_tars():
        (FOLDER / f"{tar.name}.tar").write_bytes(tar.data)
    (FOLDER / "expected.json").write_bytes(expected_json())


if __name__ == "__main__":
    main()

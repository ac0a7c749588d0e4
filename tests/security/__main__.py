"""The table of docs/reliability/hostile-files.md: what every hostile file costs every reader."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.security.test_hostile_files import CASES, read_all, write


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        lines = {}
        for number, (name, hostile) in enumerate(CASES.items()):
            below = write(hostile, Path(scratch) / str(number))
            for reader, code in hostile.expected.items():
                lines[f"{reader}={scratch}/{number}{below}"] = (name, reader, code)
        print("| hostile file | reader | comes to | seconds | MB more |")
        print("|---|---|---|---|---|")
        for argument, found in read_all(list(lines)).items():
            name, reader, code = lines[argument]
            outcome = f"`{code}`" if code in found["codes"] else f"NOT {code}: {found['codes']}"
            print(f"| {name} | {reader} | {outcome} | {found['seconds']:.2f} | {found['mb']:.0f} |")


if __name__ == "__main__":
    main()

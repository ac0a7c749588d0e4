"""What the tests of this folder share: scanning a tar that is only bytes, and saying briefly what came out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.sources import TarScan, list_inputs, scan_tar
from schemas.rejects import Reject


def scan_file(path: Path, columns: Sequence[str] = ("txt",)) -> TarScan:
    inputs = list_inputs(str(path))
    (tar,) = inputs.tars
    return scan_tar(inputs.store, tar, columns)


def scan_bytes(folder: Path, data: bytes, columns: Sequence[str] = ("txt",)) -> TarScan:
    path = folder / "x.tar"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return scan_file(path, columns)


def captions(scan: TarScan, column: str = "txt") -> dict[str, str | None]:
    return dict(zip(scan.keys, scan.captions(column, 0, len(scan.keys)), strict=True))


def damaged_bytes(damage: Reject) -> tuple[int, int]:
    """First byte, and the byte behind the last one, as the message says."""
    start, stop = re.match(r"bytes (\d+) to (\d+): ", damage.reason).groups()
    assert damage.offset == int(start)
    return int(start), int(stop)


def summary(scan: TarScan) -> dict[str, object]:
    """In the form of `expected.json`; checks on the way that every count adds up."""
    rejects = {column: scan.rejects_of(column)[len(scan.damage) :] for column in scan.columns}
    for column, found in rejects.items():
        texts = scan.captions(column, 0, len(scan.keys))
        assert scan.num_captions(column) == sum(text is not None for text in texts)
        assert scan.num_rejects(column) == len(found)
        assert scan.num_inputs(column) == scan.num_captions(column) + len(found)
        assert len(scan.keys) == scan.num_captions(column) + sum(reject.has_row for reject in found)
    first = rejects[scan.columns[0]]
    return {
        "keys": scan.keys,
        "captions": {column: scan.captions(column, 0, len(scan.keys)) for column in scan.columns},
        "refused": [[reject.code, reject.key] for reject in first if not reject.has_row],
        "faults": {
            column: [[reject.code, reject.key] for reject in found if reject.has_row]
            for column, found in rejects.items()
        },
        "damage": [[damage.code, *damaged_bytes(damage)] for damage in scan.damage],
    }

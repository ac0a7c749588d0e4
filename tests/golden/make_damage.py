"""Writes `damage/`: for each flavour a small dataset, and for each damage what it does to the dataset's files.

    python -m tests.golden.make_damage

A damage is a JSON file: the files removed; the files written, as edits of undamaged ones; and what the validator must
find. What must be found was written by hand, beside the damage.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from schemas.manifest import Container
from tests.golden import damage_latent_rows, damage_latents, damage_objects, damage_records, damage_rows
from tests.golden.damage_case import BOTH, Case
from tests.golden.damage_dataset import Victim, golden_latents, golden_manifest, write_golden, write_golden_latents
from tests.golden.edits import apply, edits

FOLDER = Path(__file__).parent / "damage"
UNDAMAGED = "undamaged"

_LATENTS = "-latents"
LATENT_FLAVOURS = tuple(container + _LATENTS for container in BOTH)
FLAVOURS: tuple[str, ...] = (*BOTH, *LATENT_FLAVOURS)
"""Each container with captions alone, and with captions and image latents."""


def container_of(flavour: str) -> Container:
    (found,) = (container for container in BOTH if container == flavour.removesuffix(_LATENTS))
    return found


def victim(flavour: str, folder: Path) -> Victim:
    container = container_of(flavour)
    latents = golden_latents(container) if flavour.endswith(_LATENTS) else None
    return Victim(folder, golden_manifest(container), latents)


def write_undamaged(flavour: str, folder: Path) -> None:
    write = write_golden_latents if flavour.endswith(_LATENTS) else write_golden
    write(folder, container_of(flavour))


def all_cases(flavour: str) -> list[Case]:
    """Every damage that a flavour can have."""
    container = container_of(flavour)
    if flavour.endswith(_LATENTS):
        found = [*damage_latents.case.found, *damage_latent_rows.case.found]
    else:
        found = [*damage_objects.case.found, *damage_records.case.found, *damage_rows.case.found]
    assert len({case.name for case in found}) == len(found)
    return [case for case in found if container in case.containers]


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def case_path(flavour: str, name: str) -> Path:
    return FOLDER / flavour / f"{name}.json"


def restore(flavour: str, name: str, folder: Path) -> None:
    """Makes a golden damaged dataset from the undamaged one."""
    undamaged = FOLDER / flavour / UNDAMAGED
    shutil.copytree(undamaged, folder, dirs_exist_ok=True)
    stored = json.loads(case_path(flavour, name).read_bytes())
    for path in stored["removed"]:
        (folder / path).unlink()
    for written in stored["written"]:
        (folder / written["path"]).parent.mkdir(parents=True, exist_ok=True)
        old = (undamaged / written["from"]).read_bytes() if written["from"] else b""
        (folder / written["path"]).write_bytes(apply(old, written["edits"]))


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    for flavour in FLAVOURS:
        write_undamaged(flavour, FOLDER / flavour / UNDAMAGED)
        for case in all_cases(flavour):
            case_path(flavour, case.name).write_text(case_text(stored_case(case, flavour)))


def case_text(stored: dict[str, Any]) -> str:
    """JSON with one line a fact and one line a file."""
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in stored.items() if name != "written"]
    written = ",\n".join("  " + json.dumps(file, separators=(",", ":")) for file in stored["written"])
    lines.append(f' "written": [\n{written}\n ]' if written else ' "written": []')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def stored_case(case: Case, flavour: str) -> dict[str, Any]:
    """Does a damage to a copy of the golden dataset and notes what it did."""
    undamaged = FOLDER / flavour / UNDAMAGED
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "dataset"
        shutil.copytree(undamaged, folder)
        case.damage(victim(flavour, folder))
        before, after = files(undamaged), files(folder)
    changed = [path for path, data in after.items() if before.get(path) != data]
    return {
        "level": case.level,
        "codes": sorted(case.codes),
        "is_error": case.is_error,
        "removed": sorted(before.keys() - after.keys()),
        "written": [_written(path, after[path], before) for path in changed],
    }


def _written(path: str, data: bytes, before: dict[str, bytes]) -> dict[str, Any]:
    choices = [path] if path in before else [other for other in before if other.split("/")[0] == path.split("/")[0]]
    made = [{"path": path, "from": other, "edits": edits(before[other], data)} for other in choices]
    made.append({"path": path, "from": None, "edits": edits(b"", data)})
    return min(made, key=lambda written: len(json.dumps(written["edits"])))


if __name__ == "__main__":
    main()

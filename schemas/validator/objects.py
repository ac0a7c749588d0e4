"""The objects of a dataset, from one listing: which there are, which should not be, and which are signs of life."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from schemas.documents import unseal
from schemas.errors import DamagedDataError, MissingObjectError
from schemas.index import INDEX_PATH
from schemas.ledger import LEDGER_FOLDER, REJECTS_FOLDER, SHARDS_FOLDER
from schemas.manifest import LATENT_MANIFEST_PATH, MANIFEST_PATH
from schemas.quarantine import QUARANTINE_FOLDER, Quarantined, quarantine_path
from schemas.storage import TEMPORARY_SUFFIX, ObjectInfo, Store
from schemas.validator.codes import Code, Severity
from schemas.validator.findings import Findings

RUNS_FOLDER = "runs"

LIVE_FOR = timedelta(minutes=5)
"""A sign of life (`runs/*.alive`) older than this is a dead run's; runs renew theirs every few seconds."""

_FOLDER_SUFFIXES = {LEDGER_FOLDER: (".json",), QUARANTINE_FOLDER: (".json",), RUNS_FOLDER: (".json", ".alive")}


@dataclass
class Listing:
    """A dataset's objects.

    Attributes:
        sizes: Bytes of every object below shards/ and rejects/, by path.
        records: (shard, groups) with a ledger record, by shard name.
        notes: Quarantine notes, (group, shard).
        has_index: Whether there is an index.arrow.
        num_objects: All objects, unknown ones too.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    records: dict[str, list[str]] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)
    has_index: bool = False
    num_objects: int = 0


def list_objects(store: Store, findings: Findings) -> Listing:
    """Lists the dataset, and reports what does not belong there.

    Raises:
        StorageError: The listing failed.
    """
    listing = Listing()
    temporary: list[str] = []
    for info in store.list():
        listing.num_objects += 1
        if TEMPORARY_SUFFIX.search(info.path):
            temporary.append(info.path)
        else:
            _sort_in(listing, info, findings)
    for path in sorted(temporary):
        _leftover(findings, Code.TEMPORARY_FILE, path, "no unfinished files", "a temporary file")
    for groups in listing.records.values():
        groups.sort()
    return listing


def _sort_in(listing: Listing, info: ObjectInfo, findings: Findings) -> None:
    folder, *rest = info.path.split("/")
    if folder in (SHARDS_FOLDER, REJECTS_FOLDER) and rest:
        listing.sizes[info.path] = info.num_bytes
    elif info.path == INDEX_PATH:
        listing.has_index = True
    elif info.path in (MANIFEST_PATH, LATENT_MANIFEST_PATH):
        return
    elif rest and info.path.endswith(_FOLDER_SUFFIXES.get(folder, ())):
        if folder == RUNS_FOLDER:
            _sign_of_life(info, findings)
        elif len(rest) < 2:
            _unknown(info.path, findings)
        elif folder == LEDGER_FOLDER:
            listing.records.setdefault(_shard(rest), []).append(rest[0])
        else:
            listing.notes.append((rest[0], _shard(rest)))
    else:
        _unknown(info.path, findings)


def _shard(rest: list[str]) -> str:
    return "/".join(rest[1:]).removesuffix(".json")


def _unknown(path: str, findings: Findings) -> None:
    documents = f"{MANIFEST_PATH}, {LATENT_MANIFEST_PATH}, {INDEX_PATH}"
    expected = f"{documents}, shards, ledger, rejects, quarantine and runs, as in SPEC.md section 1"
    findings.add(Code.UNKNOWN_OBJECT, path, expected=expected, actual="an object of another name")


def _sign_of_life(info: ObjectInfo, findings: Findings) -> None:
    if not info.path.endswith(".alive"):
        return
    age = datetime.now(UTC) - info.last_modified
    actual = f"renewed {age.total_seconds():.0f} s ago"
    if age > LIVE_FOR:
        findings.add(Code.RUN_DEAD, info.path, expected="no sign of life after a run", actual=actual)
        return
    findings.live = True
    findings.add(Code.RUN_LIVE, info.path, expected="no run under way", actual=actual)


def check_orphans(listing: Listing, referenced: set[str], findings: Findings) -> None:
    """Reports parts and rejects that no ledger record refers to.

    Args:
        listing: The dataset's objects.
        referenced: Every part and rejects file of a readable record.
        findings: Where to.
    """
    for path in sorted(listing.sizes.keys() - referenced):
        _leftover(
            findings, Code.ORPHAN, path, "a ledger record that refers to it", f"none does ({listing.sizes[path]} bytes)"
        )


def check_quarantine(store: Store, listing: Listing, findings: Findings) -> None:
    """Reports shards that were given up, and damaged or outdated notes of them."""
    for group, shard in sorted(listing.notes):
        path = quarantine_path(group, shard)
        if group in listing.records.get(shard, ()):
            _leftover(
                findings, Code.ORPHAN, path, "no note of a shard that is committed", "a note that it was given up"
            )
            continue
        with findings.guard(path):
            body = unseal(store.get(path), where=path)
            with findings.guard(path, instead=Code.QUARANTINE_INVALID):
                _report_quarantined(path, body, group, shard, findings)


def _report_quarantined(path: str, body: dict[str, object], group: str, shard: str, findings: Findings) -> None:
    try:
        note = Quarantined.model_validate(body)
    except ValueError as error:
        actual = str(error).replace("\n", " ")[:300]
        findings.add(Code.QUARANTINE_INVALID, path, expected="the fields of a quarantine note", actual=actual)
        return
    if (note.group, note.shard) != (group, shard):
        actual = f"group {note.group!r}, shard {note.shard!r}"
        findings.add(Code.QUARANTINE_INVALID, path, expected=f"group {group!r}, shard {shard!r}", actual=actual)
        return
    last = note.reasons[-1] if note.reasons else "no reason noted"
    actual = f"given up after {note.attempts} attempts; the last: {last[:300]}"
    findings.add(Code.QUARANTINED, path, expected="the shard to be committed", actual=actual)


def _leftover(findings: Findings, code: Code, path: str, expected: str, actual: str) -> None:
    severity = Severity.NOTE if findings.live else None
    findings.add(code, path, expected=expected, actual=actual, severity=severity)


def confirmed_size(store: Store, listing: Listing, path: str, expected: int) -> int | None:
    """An object's size, None if it does not exist.

    The listing is asked first. It is not taken at one moment, so that a size that differs is asked for again: a run may
    have written the object since.
    """
    size = listing.sizes.get(path)
    if size == expected:
        return size
    try:
        info = store.head(path)
    except (MissingObjectError, DamagedDataError):
        return None
    return None if info is None else info.num_bytes

"""Targets that are JSON: manifests, ledger records, rejects, quarantine notes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

from schemas.documents import seal, unseal
from schemas.errors import EncodeOnceError
from schemas.latent_manifest import load_latent_manifest
from schemas.ledger import LedgerRecord, Source, load_record
from schemas.manifest import load_manifest
from schemas.quarantine import Quarantined
from schemas.rejects import Reject, dump_rejects, load_rejects
from tests.datasets import make_latent_manifest, make_manifest, samples, write_dataset
from tests.fuzz.mutations import mutate_bytes, mutate_json
from tests.fuzz.scratch import scratch_folder
from tests.fuzz.target import Finding, Target


def document_target(
    name: str, honest: Callable[[], dict[str, Any]], load: Callable[[bytes], object], in_ci: int = 120
) -> Target:
    """A sealed document: changed as bytes, or as JSON and sealed again."""
    cached: list[dict[str, Any]] = []

    def make(random: Random) -> bytes:
        if not cached:
            cached.append(honest())
        body = copy.deepcopy(cached[0])
        if random.random() < 0.3:
            return mutate_bytes(random, seal(body))
        changed = mutate_json(random, body)
        try:
            return seal(changed) if isinstance(changed, dict) and "sha256" not in changed else dump_any(changed)
        except (ValueError, RecursionError):
            return dump_any(changed)

    def read(data: bytes) -> str:
        load(data)
        body = unseal(data, where="x")
        if data not in (seal(body), seal(body, for_people=True)):
            raise Finding(f"{name}: bytes that were never written are accepted")
        return "accepted"

    return Target(name, make, read, in_ci)


def dump_any(value: Any) -> bytes:
    """JSON, canonical or not; brackets alone for what is nested too deeply to be written."""
    try:
        return json.dumps(value).encode()
    except RecursionError:
        return b'{"a":' + b"[" * 100_000


def _manifest_body() -> dict[str, Any]:
    return make_manifest().model_dump(mode="json")


def _latent_manifest_body() -> dict[str, Any]:
    return make_latent_manifest().model_dump(mode="json")


def _record() -> LedgerRecord:
    folder = scratch_folder("record")
    store = write_dataset(str(folder), make_manifest(), {"txt": {"a/0": samples(9, missing=[3])}})
    found = load_record(store.get("ledger/txt/a/0.json"), where="x")
    damage = (Reject(key=None, code="tar-no-end", reason="bytes 1 to 2: cut", offset=1, has_row=False),)
    return found.model_copy(update={"source": Source(url="a.tar", num_bytes=1, e_tag="x", damage=damage)})


def _load_manifest(data: bytes) -> object:
    manifest = load_manifest(data, where="x")
    return manifest.row_bytes, manifest.identity_sha256


def _load_latents(data: bytes) -> object:
    manifest = load_latent_manifest(data, where="x")
    return manifest.row_bytes, manifest.identity_sha256


def _load_record(data: bytes) -> object:
    record = load_record(data, where="x")
    return record.num_bytes, list(record.chunks())


def _load_note(data: bytes) -> object:
    try:
        return Quarantined.model_validate(unseal(data, where="x"))
    except ValueError as error:
        if isinstance(error, EncodeOnceError):
            raise
        return None


def _note_body() -> dict[str, Any]:
    note = Quarantined(
        group="txt",
        shard="a",
        source_url="s3://b/a.tar",
        source_bytes=10,
        source_e_tag=None,
        attempts=2,
        reasons=("it died", "it died again"),
        run_id="r",
        time="2026-01-01T00:00:00+00:00",
    )
    return note.model_dump(mode="json")


def _make_rejects(random: Random) -> bytes:
    rejects = [Reject(key=f"k{n}", code="caption-missing", reason="none", member=None, offset=n) for n in range(5)]
    lines = [json.loads(line) for line in dump_rejects(rejects).splitlines()]
    if random.random() < 0.4:
        return mutate_bytes(random, dump_rejects(rejects))
    changed = mutate_json(random, lines)
    return b"".join(dump_any(line) + b"\n" for line in changed) if isinstance(changed, list) else dump_any(changed)


def _read_rejects(data: bytes) -> str:
    rejects = load_rejects(data, where="x")
    dump_rejects(rejects)
    return "accepted"


DOCUMENTS = (
    document_target("manifest", _manifest_body, _load_manifest),
    document_target("latent-manifest", _latent_manifest_body, _load_latents),
    document_target("ledger", lambda: _record().model_dump(mode="json"), _load_record),
    document_target("quarantine", _note_body, _load_note),
    Target("rejects", _make_rejects, _read_rejects, 150),
)

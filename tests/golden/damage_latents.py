"""Manifests, records and an index that contradict each other, in a dataset of captions and image latents."""

from __future__ import annotations

import hashlib
from typing import Any

from schemas.documents import seal, unseal
from schemas.index import INDEX_PATH, dump_index, read_ledger
from schemas.latent_manifest import LATENTS_GROUP, LatentManifest
from schemas.ledger import record_path
from schemas.manifest import LATENT_MANIFEST_PATH, MANIFEST_PATH, Manifest
from tests.datasets import pictures, write_latent_shard
from tests.golden.damage_case import Cases
from tests.golden.damage_dataset import ROWS, Victim

case = Cases()
WRONG = hashlib.sha256(b"wrong").hexdigest()


def _latents(victim: Victim) -> LatentManifest:
    assert victim.latents is not None
    return victim.latents


def _edit(victim: Victim, **changes: Any) -> None:
    path = victim.folder / LATENT_MANIFEST_PATH
    body = unseal(path.read_bytes(), where=LATENT_MANIFEST_PATH)
    path.write_bytes(seal(body | changes, for_people=True))


@case("structure", "document-damaged")
def flipped_latents_manifest(victim: Victim) -> None:
    victim.flip(LATENT_MANIFEST_PATH, 700)


@case("structure", "document-damaged")
def torn_latents_manifest(victim: Victim) -> None:
    path = victim.folder / LATENT_MANIFEST_PATH
    path.write_bytes(path.read_bytes()[:500])


@case("structure", "document-damaged")
def torn_captions_manifest(victim: Victim) -> None:
    """The latents are still judged, and nothing of the captions is taken for an orphan."""
    path = victim.folder / MANIFEST_PATH
    path.write_bytes(path.read_bytes()[:500])


@case("structure", "document-damaged")
def both_manifests_torn(victim: Victim) -> None:
    torn_captions_manifest(victim)
    torn_latents_manifest(victim)


@case("structure", "manifest-missing")
def missing_latents_manifest(victim: Victim) -> None:
    (victim.folder / LATENT_MANIFEST_PATH).unlink()


@case("structure", "manifest-missing")
def missing_captions_manifest(victim: Victim) -> None:
    (victim.folder / MANIFEST_PATH).unlink()


@case("structure", "manifest-missing")
def missing_manifests(victim: Victim) -> None:
    missing_latents_manifest(victim)
    missing_captions_manifest(victim)


@case("structure", "format-version-unknown")
def latents_manifest_of_another_version(victim: Victim) -> None:
    _edit(victim, format_version=2)


@case("structure", "manifest-invalid")
def latents_manifest_with_unknown_field(victim: Victim) -> None:
    _edit(victim, comment="edited by hand")


@case("structure", "manifest-invalid")
def latents_manifest_that_cannot_be(victim: Victim) -> None:
    """Floats are said to be pixels."""
    _edit(victim, latents=_latents(victim).latents.model_dump(mode="json") | {"kind": "pixels"})


@case("structure", "record-identity", "part-schema", "index-contradiction")
def latents_manifest_of_another_identity(victim: Victim) -> None:
    (victim.folder / LATENT_MANIFEST_PATH).write_bytes(_other(victim).dump())


@case("structure", "layouts-differ", "record-identity", "part-schema", "index-contradiction", "chunk-table")
def manifests_of_two_layouts(victim: Victim) -> None:
    layout = _latents(victim).layout.model_copy(update={"chunk_rows": 4})
    _edit(victim, layout=layout.model_dump(mode="json"))


@case("structure", "record-identity", "part-schema")
def latents_of_two_identities(victim: Victim) -> None:
    victim.part(LATENTS_GROUP, "b").unlink()
    (victim.folder / record_path(LATENTS_GROUP, "b")).unlink()
    other = _other(victim)
    write_latent_shard(victim.store, other, "b", pictures(other, [row.key for row in ROWS["b"]]))
    victim.reindex()


def _other(victim: Victim) -> LatentManifest:
    latents = _latents(victim)
    return latents.model_copy(update={"latents": latents.latents.model_copy(update={"scaling_factor": 1.0})})


@case("structure", "record-identity")
def latents_record_of_the_captions(victim: Victim) -> None:
    victim.reseal(LATENTS_GROUP, "b", identity_sha256=victim.manifest.identity_sha256)


@case("structure", "groups-misaligned")
def latents_in_another_order(victim: Victim) -> None:
    """Every image would be trained on with another image's caption."""
    _write_b_anew(victim, [row.key for row in ROWS["b"]][::-1])


@case("structure", "groups-misaligned")
def latents_of_fewer_rows(victim: Victim) -> None:
    _write_b_anew(victim, [row.key for row in ROWS["b"]][:2])


def _write_b_anew(victim: Victim, keys: list[str]) -> None:
    victim.part(LATENTS_GROUP, "b").unlink()
    (victim.folder / record_path(LATENTS_GROUP, "b")).unlink()
    write_latent_shard(victim.store, _latents(victim), "b", pictures(_latents(victim), keys))
    victim.reindex()


@case("structure", "index-contradiction")
def index_of_other_latents(victim: Victim) -> None:
    _index(victim, victim.manifest, WRONG)


@case("structure", "index-contradiction")
def index_that_names_no_latents(victim: Victim) -> None:
    _index(victim, victim.manifest, None)


def _index(victim: Victim, manifest: Manifest, latents: str | None) -> None:
    records = read_ledger(victim.store)
    data = dump_index(records, manifest.identity_sha256, where="test", latents_identity_sha256=latents)
    victim.store.replace(INDEX_PATH, data)

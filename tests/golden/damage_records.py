"""Records and indexes that lie: their own digests are right, what they say is not."""

from __future__ import annotations

import hashlib
import shutil
from typing import Any

from schemas.documents import seal, unseal
from schemas.index import INDEX_PATH, dump_index, read_ledger
from schemas.ledger import part_path, record_path
from schemas.manifest import Manifest
from tests.datasets import samples, write_shard
from tests.golden.damage_case import Cases
from tests.golden.damage_dataset import ROWS, Victim

case = Cases()
WRONG = hashlib.sha256(b"wrong").hexdigest()


def _parts(victim: Victim) -> list[dict[str, Any]]:
    return [part.model_dump(mode="json") for part in victim.record().parts]


@case("checksums", "part-checksum")
def wrong_checksum_of_a_part(victim: Victim) -> None:
    parts = _parts(victim)
    parts[0]["sha256"] = parts[0]["sha256"][:16] + WRONG[16:]
    victim.reseal(parts=parts)


@case("checksums", "chunk-checksum")
def wrong_checksum_of_a_chunk(victim: Victim) -> None:
    parts = _parts(victim)
    parts[0]["chunks"][1]["xxh3_64"] = WRONG[:16]
    victim.reseal(parts=parts)


@case("checksums", "rejects-checksum")
def wrong_checksum_of_rejects(victim: Victim) -> None:
    entry = victim.record().rejects
    assert entry is not None
    victim.reseal(rejects={"num_bytes": entry.num_bytes, "sha256": WRONG})


@case("structure", "groups-misaligned")
def wrong_keys_digest(victim: Victim) -> None:
    victim.reseal(keys_sha256=WRONG)


@case("values", "keys-digest")
def wrong_keys_digest_in_all_groups(victim: Victim) -> None:
    victim.reseal("txt", keys_sha256=WRONG)
    victim.reseal("json.x", keys_sha256=WRONG)


@case("structure", "part-name")
def wrong_part_name(victim: Victim) -> None:
    parts = _parts(victim)
    path = victim.part()
    parts[0]["name"] = parts[0]["name"].replace("txt-00000", "txt-00007")
    path.rename(path.with_name(parts[0]["name"]))
    victim.reseal(parts=parts)


@case("structure", "ledger-record-invalid")
def wrong_sum_of_inputs(victim: Victim) -> None:
    victim.reseal(num_inputs=6)


@case("structure", "ledger-record-invalid")
def wrong_sum_of_rows(victim: Victim) -> None:
    victim.reseal(num_rows=4)


@case("structure", "ledger-record-invalid")
def unknown_field(victim: Victim) -> None:
    victim.reseal(checked="yes")


@case("values", "encoded-count", "rejects-count")
def wrong_count_of_encoded(victim: Victim) -> None:
    victim.reseal(num_encoded=3, num_rejects=2)


@case("values", "stats-mismatch")
def wrong_statistics(victim: Victim) -> None:
    stats = victim.record().model_dump(mode="json")["stats"]
    stats["t5"]["num_tokens"] += 1
    victim.reseal(stats=stats)


@case("structure", "rejects-count", "orphan")
def rejects_not_recorded(victim: Victim) -> None:
    victim.reseal(rejects=None)


@case("values", "chunk-rows", "groups-misaligned")
def wrong_rows_of_a_chunk(victim: Victim) -> None:
    """The shard's last chunk has one row, and is said to have two."""
    parts = _parts(victim)
    parts[1]["chunks"][0]["num_rows"] = 2
    victim.reseal(parts=parts, num_rows=6, num_encoded=5, num_inputs=6)


@case("structure", "chunk-table")
def overlapping_chunks(victim: Victim) -> None:
    parts = _parts(victim)
    parts[0]["chunks"][1]["offset"] -= 8
    victim.reseal(parts=parts)


@case("structure", "chunk-table")
def chunk_beyond_the_part(victim: Victim) -> None:
    parts = _parts(victim)
    parts[0]["chunks"][1]["num_bytes"] += 100_000
    victim.reseal(parts=parts)


@case("structure", "chunk-table")
def chunk_offset_over_32_bits(victim: Victim) -> None:
    parts = _parts(victim)
    parts[0]["chunks"][1]["offset"] += 2**32
    victim.reseal(parts=parts)


@case("structure", "chunk-table")
def chunk_offset_over_64_bits(victim: Victim) -> None:
    parts = _parts(victim)
    parts[0]["chunks"][1]["offset"] += 2**64
    victim.reseal(parts=parts)


@case("structure", "part-size")
def part_size_over_32_bits(victim: Victim) -> None:
    parts = _parts(victim)
    parts[0]["num_bytes"] += 2**32
    victim.reseal(parts=parts)


@case("structure", "chunk-table", "groups-misaligned")
def part_without_chunks(victim: Victim) -> None:
    parts = _parts(victim)
    parts[1]["chunks"].clear()
    victim.reseal(parts=parts, num_rows=4, num_encoded=3, num_inputs=4)


@case("structure", "chunk-table", "groups-misaligned")
def chunks_of_other_rows(victim: Victim) -> None:
    parts = _parts(victim)
    parts[0]["chunks"][0]["num_rows"] = 3
    victim.reseal(parts=parts, num_rows=6, num_encoded=5, num_inputs=6)


@case("structure", "record-misplaced", "orphan")
def misplaced_record(victim: Victim) -> None:
    shutil.copy(victim.folder / record_path("txt", "b"), victim.folder / record_path("txt", "a/0000"))
    victim.reindex()


@case("structure", "format-version-unknown")
def record_of_another_version(victim: Victim) -> None:
    victim.reseal(format_version=2)


@case("structure", "format-version-unknown")
def manifest_of_another_version(victim: Victim) -> None:
    _edit_manifest(victim, format_version=2)


@case("structure", "manifest-invalid")
def manifest_with_unknown_field(victim: Victim) -> None:
    _edit_manifest(victim, comment="edited by hand")


def _edit_manifest(victim: Victim, **changes: Any) -> None:
    path = victim.folder / "manifest.json"
    body = unseal(path.read_bytes(), where="manifest.json")
    path.write_bytes(seal(body | changes, for_people=True))


@case("structure", "record-identity", "part-schema", "index-contradiction")
def manifest_of_another_identity(victim: Victim) -> None:
    path = victim.folder / "manifest.json"
    path.write_bytes(_other(victim).dump())


@case("structure", "record-identity", "part-schema")
def two_identities_mixed(victim: Victim) -> None:
    _encode_b_otherwise(victim)


@case("structure", "part-schema")
def two_identities_mixed_and_denied(victim: Victim) -> None:
    _encode_b_otherwise(victim)
    victim.reseal("txt", "b", identity_sha256=victim.manifest.identity_sha256)


def _other(victim: Victim) -> Manifest:
    captions = victim.manifest.captions
    t5 = captions.t5.model_copy(update={"weights_sha256": WRONG})
    return victim.manifest.model_copy(update={"captions": captions.model_copy(update={"t5": t5})})


def _encode_b_otherwise(victim: Victim) -> None:
    victim.part("txt", "b").unlink()
    (victim.folder / record_path("txt", "b")).unlink()
    write_shard(victim.store, _other(victim), "txt", "b", ROWS["b"])
    victim.reindex()


@case("structure", "part-schema")
def swapped_column_group(victim: Victim) -> None:
    """The txt record's part holds the rows of json.x, under a right name and checksum."""
    _swap(victim, ("json.x", "b"), ("txt", "b"))


@case("structure", "part-schema")
def swapped_shard(victim: Victim) -> None:
    """The part of shard b is one of shard c."""
    write_shard(victim.store, victim.manifest, "txt", "c", samples(3, prefix="c"))
    _swap(victim, ("txt", "c"), ("txt", "b"))
    shutil.rmtree(victim.folder / "shards/c")
    (victim.folder / record_path("txt", "c")).unlink()
    victim.reindex()


def _swap(victim: Victim, taken: tuple[str, str], given: tuple[str, str]) -> None:
    record, part = victim.record(*taken), victim.record(*taken).parts[0]
    data = victim.part(*taken).read_bytes()
    victim.part(*given).unlink()
    sealed = victim.sealed_part(given[0], 0, data, part.chunks)
    (victim.folder / part_path(given[1], sealed.name)).write_bytes(data)
    stats = record.model_dump(mode="json")["stats"]
    victim.reseal(*given, parts=[sealed.model_dump()], stats=stats)


@case("structure", "part-missing")
def record_of_missing_objects(victim: Victim) -> None:
    """A record of a shard of which nothing is stored."""
    victim.store.replace(
        record_path("txt", "c"), seal(victim.record("txt", "b").model_dump(mode="json") | {"shard": "c"})
    )
    victim.reindex()


@case("structure", "groups-misaligned")
def misaligned_groups(victim: Victim) -> None:
    victim.part("txt", "b").unlink()
    (victim.folder / record_path("txt", "b")).unlink()
    write_shard(victim.store, victim.manifest, "txt", "b", [*ROWS["b"]][::-1])
    victim.reindex()


@case("structure", "groups-misaligned")
def groups_of_other_length(victim: Victim) -> None:
    victim.part("txt", "b").unlink()
    (victim.folder / record_path("txt", "b")).unlink()
    write_shard(victim.store, victim.manifest, "txt", "b", [*ROWS["b"]][:2])
    victim.reindex()


@case("structure", "index-stale", is_error=False)
def stale_index(victim: Victim) -> None:
    write_shard(victim.store, victim.manifest, "txt", "c", samples(1, prefix="c"))


@case("structure", "index-contradiction")
def index_of_another_record(victim: Victim) -> None:
    victim.reseal("txt", "b", writer=victim.record().writer.model_dump() | {"attempt": 2}, reindex=False)


@case("structure", "index-contradiction")
def index_of_another_identity(victim: Victim) -> None:
    victim.store.replace(INDEX_PATH, dump_index(read_ledger(victim.store), WRONG, where="test"))

"""Damage to bytes and objects: flipped regions, torn and missing files, orphans, and what lies beside."""

from __future__ import annotations

import shutil

from schemas.quarantine import Quarantined, quarantine_path, write_quarantined
from tests.golden.damage_case import Cases
from tests.golden.damage_dataset import Victim

case = Cases()
ARROW, WEBDATASET = ("arrow",), ("webdataset",)
PART, CHUNK = "part-checksum", "chunk-checksum"


@case("structure", "part-head", containers=ARROW)
def flipped_magic(victim: Victim) -> None:
    victim.flip(victim.part(), 0)


@case("checksums", PART, containers=ARROW)
def flipped_padding_of_the_head(victim: Victim) -> None:
    victim.flip(victim.part(), 7)


@case("structure", "part-head", containers=ARROW)
def flipped_schema_length(victim: Victim) -> None:
    victim.flip(victim.part(), 12, bit=6)


@case("structure", "part-schema", containers=ARROW)
def flipped_schema_text(victim: Victim) -> None:
    victim.flip(victim.part(), victim.part().read_bytes().index(b"a/0000"))


@case("checksums", PART, CHUNK, containers=ARROW)
def flipped_chunk_metadata(victim: Victim) -> None:
    victim.flip(victim.part(), victim.record().parts[0].chunks[0].offset + 20)


@case("checksums", PART, CHUNK)
def flipped_chunk_body(victim: Victim) -> None:
    chunk = victim.record().parts[0].chunks[1]
    victim.flip(victim.part(), chunk.offset + chunk.num_bytes // 2, bit=3)


@case("checksums", PART, CHUNK)
def flipped_last_byte_of_a_chunk(victim: Victim) -> None:
    chunk = victim.record().parts[0].chunks[1]
    victim.flip(victim.part(), chunk.offset + chunk.num_bytes - 1, bit=7)


@case("structure", "part-tail", containers=ARROW)
def flipped_end_marker(victim: Victim) -> None:
    chunk = victim.record().parts[0].chunks[1]
    victim.flip(victim.part(), chunk.offset + chunk.num_bytes)


@case("structure", "part-tail", containers=ARROW)
def flipped_footer(victim: Victim) -> None:
    data = victim.part().read_bytes()
    victim.flip(victim.part(), data.rindex(b"encode_once.shard"))


@case("structure", "part-tail", containers=ARROW)
def flipped_footer_length(victim: Victim) -> None:
    victim.flip(victim.part(), -10)


@case("structure", "part-tail", containers=ARROW)
def flipped_last_magic(victim: Victim) -> None:
    victim.flip(victim.part(), -1)


@case("structure", "part-head", containers=WEBDATASET)
def flipped_tar_header(victim: Victim) -> None:
    victim.flip(victim.part(), 150)


@case("structure", "part-schema", containers=WEBDATASET)
def flipped_row_schema(victim: Victim) -> None:
    victim.flip(victim.part(), victim.part().read_bytes().index(b"a/0000"))


@case("checksums", PART, CHUNK, containers=WEBDATASET)
def flipped_json_member(victim: Victim) -> None:
    victim.flip(victim.part(), victim.part().read_bytes().index(b'"caption": "a picture'))


@case("checksums", PART, CHUNK, containers=WEBDATASET)
def flipped_member_padding(victim: Victim) -> None:
    data = victim.part().read_bytes()
    victim.flip(victim.part(), data.index(b"}}\0\0\0\0") + 3 if b"}}\0\0\0\0" in data else data.index(b"}\0\0\0\0") + 3)


@case("structure", "part-tail", containers=WEBDATASET)
def flipped_end_block(victim: Victim) -> None:
    victim.flip(victim.part(), -600)


@case("structure", "document-damaged")
def flipped_manifest(victim: Victim) -> None:
    victim.flip("manifest.json", 700)


@case("structure", "document-damaged")
def flipped_record(victim: Victim) -> None:
    victim.flip("ledger/txt/a/0000.json", 300)


@case("structure", "document-damaged")
def flipped_record_white_space(victim: Victim) -> None:
    path = victim.folder / "ledger/txt/a/0000.json"
    path.write_bytes(path.read_bytes() + b"\n")


@case("checksums", "rejects-checksum")
def flipped_rejects(victim: Victim) -> None:
    victim.flip("rejects/txt/a/0000.jsonl", 30)


@case("structure", "index-damaged")
def flipped_index(victim: Victim) -> None:
    victim.flip("index.arrow", 1000)


@case("structure", "part-size")
def torn_part(victim: Victim) -> None:
    path = victim.part()
    path.write_bytes(path.read_bytes()[:5000])


@case("structure", "part-size")
def empty_part(victim: Victim) -> None:
    victim.part().write_bytes(b"")


@case("structure", "part-size")
def grown_part(victim: Victim) -> None:
    path = victim.part()
    path.write_bytes(path.read_bytes() + b"\0")


@case("structure", "document-damaged")
def torn_record(victim: Victim) -> None:
    path = victim.folder / "ledger/txt/a/0000.json"
    path.write_bytes(path.read_bytes()[:500])


@case("structure", "document-damaged")
def empty_record(victim: Victim) -> None:
    (victim.folder / "ledger/txt/a/0000.json").write_bytes(b"")


@case("structure", "document-damaged")
def torn_manifest(victim: Victim) -> None:
    path = victim.folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:500])


@case("structure", "rejects-size")
def torn_rejects(victim: Victim) -> None:
    path = victim.folder / "rejects/txt/a/0000.jsonl"
    path.write_bytes(path.read_bytes()[:20])


@case("structure", "index-damaged")
def torn_index(victim: Victim) -> None:
    path = victim.folder / "index.arrow"
    path.write_bytes(path.read_bytes()[:1000])


@case("structure", "manifest-missing")
def missing_manifest(victim: Victim) -> None:
    (victim.folder / "manifest.json").unlink()


@case("structure", "part-missing")
def missing_part(victim: Victim) -> None:
    victim.part().unlink()


@case("structure", "rejects-missing")
def missing_rejects(victim: Victim) -> None:
    (victim.folder / "rejects/txt/a/0000.jsonl").unlink()


@case("structure", "index-missing", is_error=False)
def missing_index(victim: Victim) -> None:
    (victim.folder / "index.arrow").unlink()


@case("structure", "orphan", "index-contradiction")
def missing_record(victim: Victim) -> None:
    (victim.folder / "ledger/txt/b.json").unlink()


@case("structure", "orphan")
def orphan_part(victim: Victim) -> None:
    path = victim.part("txt", "b")
    shutil.copy(path, path.with_name(path.name.replace("00000", "00001")))


@case("structure", "orphan")
def orphan_rejects(victim: Victim) -> None:
    shutil.copy(victim.folder / "rejects/txt/a/0000.jsonl", victim.folder / "rejects/txt/b.jsonl")


@case("structure", "temporary-file")
def temporary_file(victim: Victim) -> None:
    path = victim.part("txt", "b")
    path.with_name(f"{path.name}.tmp-{'0123456789abcdef' * 2}").write_bytes(path.read_bytes()[:700])


@case("structure", "unknown-object", is_error=False)
def unknown_object(victim: Victim) -> None:
    (victim.folder / "notes.txt").write_text("not of a dataset")


@case("structure", "unknown-object", is_error=False)
def unknown_object_in_the_ledger(victim: Victim) -> None:
    (victim.folder / "ledger/txt/b.json.bak").write_text("not a record")


@case("structure", "quarantined", is_error=False)
def quarantined_shard(victim: Victim) -> None:
    write_quarantined(victim.store, _note("c"))


@case("structure", "orphan")
def quarantined_and_committed(victim: Victim) -> None:
    write_quarantined(victim.store, _note("b"))


@case("structure", "document-damaged")
def flipped_quarantine_note(victim: Victim) -> None:
    write_quarantined(victim.store, _note("c"))
    victim.flip(quarantine_path("txt", "c"), 40)


@case("structure", "quarantine-invalid")
def misplaced_quarantine_note(victim: Victim) -> None:
    write_quarantined(victim.store, _note("c"))
    path = victim.folder / quarantine_path("txt", "c")
    path.rename(path.with_name("d.json"))


def _note(shard: str) -> Quarantined:
    return Quarantined(
        group="txt",
        shard=shard,
        source_url=f"memory/{shard}.tar",
        source_bytes=1,
        source_e_tag=None,
        attempts=3,
        reasons=("the worker died", "the worker died", "the worker died: signal 9"),
        run_id="test",
        time="2026-01-01T00:00:00+00:00",
    )

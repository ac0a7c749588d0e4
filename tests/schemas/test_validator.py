"""What the validator says of sound datasets, of running and ended jobs, of input tars, and how it is called."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from schemas.errors import MissingObjectError
from schemas.ledger import Source, read_record, record_path
from schemas.storage import Store
from schemas.validator import LEVELS, Code, validate
from schemas.validator.findings import MAX_FINDINGS_PER_CODE, Findings, Totals
from schemas.validator.findings_page import findings_page
from schemas.validator.source import member_key
from schemas.validator.text import report_lines
from tests.datasets import Sample, make_manifest, samples, write_dataset
from tests.golden.damage_case import BOTH
from tests.golden.damage_dataset import Victim


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "schemas", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.parametrize("storage_dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("padding", ["max_length", "none"])
@pytest.mark.parametrize("container", BOTH)
def test_a_sound_dataset_is_ok(tmp_path: Path, container: str, padding: str, storage_dtype: str) -> None:
    rows = {"a/é 日本": samples(9, missing=[0, 8]), "all-null": samples(3, missing=[0, 1, 2]), "none": []}
    write_dataset(str(tmp_path), make_manifest(container, padding, storage_dtype), {"txt": rows, "json.x": rows})
    for level in LEVELS:
        report = validate(str(tmp_path), level, source=False)
        assert report.findings == ()
        assert report.ok
    assert (report.totals.num_records, report.totals.num_rows, report.totals.num_encoded) == (6, 24, 14)
    assert list(report_lines(report))[-1] == "ok"


def test_an_awkward_key_is_no_damage(tmp_path: Path) -> None:
    """Long and non-ASCII names take extended tar headers."""
    rows = [
        Sample("deep/" * 60 + "日本", "a"),
        Sample("k" * 3000, "b\u2028c"),
        Sample("a.b", "line\nbreak\0"),
        Sample("c", ""),
    ]
    for container in BOTH:
        write_dataset(str(tmp_path / container), make_manifest(container), {"txt": {"s": rows}})
        assert validate(str(tmp_path / container), "values", source=False).findings == ()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(MissingObjectError):
        validate(str(tmp_path))
    result = run("validate", str(tmp_path / "absent"))
    assert result.returncode == 2
    assert "object-missing" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "absent").exists()


def test_command_line(tmp_path: Path) -> None:
    write_dataset(str(tmp_path), make_manifest(), {"txt": {"s": samples(5)}})
    sound = run("validate", str(tmp_path))
    assert (sound.returncode, sound.stderr) == (0, "")
    assert sound.stdout.endswith("ok\n")
    record = read_record(Store(str(tmp_path)), "txt", "s")
    assert record is not None
    Victim(tmp_path, make_manifest()).flip(f"shards/s/{record.parts[0].name}", record.parts[0].chunks[0].offset + 99)
    damaged = run("validate", str(tmp_path))
    assert damaged.returncode == 1
    assert "Traceback" not in damaged.stdout + damaged.stderr
    for text in ("error: chunk-checksum", record.parts[0].name, "expected:", "actual:", "remedy:", "FAILED: 2 errors"):
        assert text in damaged.stdout
    as_json = run("validate", str(tmp_path), "--json")
    assert as_json.returncode == 1
    document = json.loads(as_json.stdout)
    assert document["ok"] is False
    assert document["counts"] == {"chunk-checksum": 1, "part-checksum": 1}
    assert {"code", "severity", "file", "row", "key", "offset", "expected", "actual", "remedy"} == set(
        document["findings"][0]
    )
    assert run("validate", str(tmp_path), "--level", "structure").returncode == 0
    assert run("validate", str(tmp_path), "--level", "nonsense").returncode == 2


def test_a_record_is_named_by_row_and_key(tmp_path: Path) -> None:
    write_dataset(str(tmp_path), make_manifest(), {"txt": {"s": [*samples(6), *samples(1)]}})
    report = validate(str(tmp_path), "values", source=False)
    assert [(f.code, f.file, f.row, f.key) for f in report.findings] == [
        ("key-duplicate", "ledger/txt/s.json", 6, "00000"),
    ]


def test_the_remedy_for_a_damaged_part_works(tmp_path: Path) -> None:
    """Delete the part and its record, and write the shard again: names are content-addressed, so both must go."""
    manifest = make_manifest()
    write_dataset(str(tmp_path), manifest, {"txt": {"s": samples(5)}})
    victim = Victim(tmp_path, manifest)
    part = victim.part("txt", "s")
    victim.flip(part, 3000)
    report = validate(str(tmp_path))
    assert not report.ok
    assert "delete it and the shard's ledger record" in report.findings[0].remedy
    part.unlink()
    (tmp_path / record_path("txt", "s")).unlink()
    write_dataset(str(tmp_path), manifest, {"txt": {"s": samples(5)}})
    assert validate(str(tmp_path)).findings == ()


def test_while_a_run_is_live(tmp_path: Path) -> None:
    """What it has not committed is no damage; damage still is."""
    write_dataset(str(tmp_path), make_manifest(), {"txt": {"s": samples(5)}})
    (tmp_path / "index.arrow").unlink()
    (tmp_path / "shards/t").mkdir()
    (tmp_path / "shards/t/txt-00000-0123456789abcdef.arrow").write_bytes(b"not committed yet")
    (tmp_path / f"shards/t/txt-00001-0123456789abcdef.arrow.tmp-{'0' * 32}").write_bytes(b"half")
    alive = tmp_path / "runs/r.alive"
    alive.parent.mkdir()
    alive.write_text("{}")
    report = validate(str(tmp_path))
    assert report.ok
    assert report.counts == {"index-missing": 1, "orphan": 1, "run-live": 1, "temporary-file": 1}
    assert {finding.severity for finding in report.findings} == {"note"}
    Victim(tmp_path, make_manifest()).part("txt", "s").unlink()
    assert validate(str(tmp_path)).counts["part-missing"] == 1

    long_ago = time.time() - 3600
    os.utime(alive, (long_ago, long_ago))
    report = validate(str(tmp_path))
    assert report.severities == {"error": 3, "warning": 2, "note": 0}
    assert report.counts == {"index-missing": 1, "orphan": 1, "part-missing": 1, "run-dead": 1, "temporary-file": 1}


def test_a_part_written_after_the_listing_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may commit while the dataset is listed: what the listing lacks is asked for by name."""
    write_dataset(str(tmp_path), make_manifest(), {"txt": {"s": samples(5, missing=[1])}})
    original = Store.list
    late = lambda self, prefix="": (i for i in original(self, prefix) if not i.path.startswith(("shards", "rejects")))  # noqa: E731
    monkeypatch.setattr(Store, "list", late)
    assert validate(str(tmp_path)).ok


def test_an_unexpected_exception_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(str(tmp_path), make_manifest(), {"txt": {"s": samples(5), "t": samples(5)}})

    def broken(*arguments: object, **named: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("schemas.validator.rows.read_chunk", broken)
    report = validate(str(tmp_path), "values", source=False)
    assert not report.ok
    assert set(report.counts) == {"check-failed"}
    assert "RuntimeError: a bug" in report.findings[0].actual


def test_a_flood_is_counted_and_cut() -> None:
    findings = Findings()
    for row in range(MAX_FINDINGS_PER_CODE + 500):
        findings.add(Code.NUM_TOKENS, "ledger/txt/s.json", expected="1 to 77", actual="0", row=row)
    report = findings.report("/data", "values", Totals())
    assert len(report.findings) == MAX_FINDINGS_PER_CODE
    assert report.counts == {"num-tokens": MAX_FINDINGS_PER_CODE + 500}
    lines = list(report_lines(report))
    assert len(lines) < 30
    assert "  ... and 1,495 more of this kind" in "\n".join(lines)
    assert lines[-1].startswith("FAILED: 1,500 errors")


def test_the_page_of_findings_is_up_to_date(repository: Path) -> None:
    page = (repository / "docs/findings.md").read_text()
    assert page == findings_page(), "run: python -m schemas.validator.findings_page > docs/findings.md"
    assert all(f"`{code.code}`" in page for code in Code)


# The source


def write_tar(path: Path, names: Sequence[str]) -> Source:
    with tarfile.open(path, "w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 700
            archive.addfile(info, io.BytesIO(b"x" * 700))
    info = Store(str(path.parent)).head(path.name)
    assert info is not None
    return Source(url=f"{path.parent}/{path.name}", num_bytes=info.num_bytes, e_tag=info.e_tag, damage=())


def with_source(folder: Path, source: Source) -> None:
    Victim(folder, make_manifest()).reseal("txt", "s", source=source.model_dump(mode="json"))


def test_the_source_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    write_dataset(str(folder), make_manifest(), {"txt": {"s": samples(3)}})
    names = [
        "00000.jpg",
        "00001.txt",
        "00000.txt",
        "./00002.seg.png",
        "README",
        ".hidden.txt",
        "a/../b.txt",
        "00001.jpg",
    ]
    with_source(folder, write_tar(tmp_path / "s.tar", names))
    report = validate(str(folder), "values")
    assert report.findings == ()
    assert report.totals.num_sources_counted == 1
    assert validate(str(folder), "values", source=False).totals.num_sources_counted == 0
    with_source(folder, write_tar(tmp_path / "s.tar", [*names, "00003.txt"]))
    report = validate(str(folder), "values")
    assert [finding.code for finding in report.findings] == ["source-rows"]
    assert "4 keys, number 3 is '00003'" in report.findings[0].expected
    with_source(folder, write_tar(tmp_path / "s.tar", ["00001.txt", "00000.txt", "00002.txt"]))
    assert validate(str(folder), "values").counts == {"source-rows": 1}


def test_a_source_that_cannot_be_compared(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    write_dataset(str(folder), make_manifest(), {"txt": {"s": samples(3)}})
    source = write_tar(tmp_path / "s.tar", ["00000.txt"])
    damage = {"key": None, "code": "tar-truncated", "reason": "cut", "has_row": False}
    with_source(folder, Source.model_validate(source.model_dump() | {"damage": [damage]}))
    for level in LEVELS:
        report = validate(str(folder), level)
        assert report.counts == {"source-damaged": 1}
        assert report.ok
    with_source(folder, source.model_copy(update={"num_bytes": 5}))
    assert validate(str(folder), "values").counts == {"source-changed": 1}
    (tmp_path / "s.tar").unlink()
    for url in (source.url, "unknown://bucket/s.tar", "s.tar", ""):
        with_source(folder, source.model_copy(update={"url": url}))
        report = validate(str(folder), "values")
        assert report.counts == {"source-unreachable": 1}, report.findings
        assert report.ok


def test_the_rule_for_keys() -> None:
    keys = {
        "a.txt": "a",
        "./a.txt": "a",
        "d.e/a.b.c": "d.e/a",
        "a": None,
        "a.": None,
        ".txt": None,
        "/a.txt": None,
        "a//b.txt": None,
        "a/../b.txt": None,
        "a\n.txt": None,
        "\udcff.txt": None,
        "x" * 4096 + ".txt": "x" * 4096,
        "x" * 4097 + ".txt": None,
    }
    assert {name: member_key(name) for name in keys} == keys


def test_the_rule_for_keys_is_the_pipelines() -> None:
    member_names = pytest.importorskip("pipeline.sources.member_names")
    for name in (
        "a.txt",
        "./x/a.b.txt",
        "a",
        ".a.txt",
        "a/.b.txt",
        "../a.txt",
        "a/./b.txt",
        "é 日.txt",
        "a\t.txt",
        "a/b.",
    ):
        split = member_names.split_name(name.encode())
        assert member_key(name) == getattr(split, "key", None)

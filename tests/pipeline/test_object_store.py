"""The whole path on an object store: read the tar, encode, commit, finalize, read back, validate."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

import schemas
from pipeline.job.finalize import finalize
from pipeline.job.lease import Lease
from pipeline.job.plan import make_plan
from pipeline.shard_encoder import EngineSettings, ShardEncoder
from pipeline.sources import list_inputs
from schemas.errors import ConfigError
from schemas.identity import ENCODER_NAMES
from schemas.manifest import create_or_require_same
from schemas.storage import Store
from schemas.validator import validate
from tests.pipeline.encoding import make_manifest, small_encoders, write_tar
from tests.s3_server import s3_bucket, s3_server


@pytest.fixture
def s3() -> Iterator[object]:
    with s3_server() as endpoint, s3_bucket(endpoint, "bucket") as client:
        yield client


def test_from_bucket_to_bucket(s3: object, tmp_path: Path) -> None:
    members = [(f"{i:02d}.txt", f"a picture of {i}".encode()) for i in range(10)] + [("10.jpg", b"no caption")]
    write_tar(tmp_path / "s.tar", members)
    for shard in ("a", "b"):
        s3.upload_fileobj(io.BytesIO((tmp_path / "s.tar").read_bytes()), "bucket", f"tars/{shard}.tar")
    inputs, dataset = list_inputs("s3://bucket/tars"), Store("s3://bucket/run")
    encoders = small_encoders("none")
    manifest = create_or_require_same(dataset, make_manifest(encoders))
    worker = ShardEncoder(inputs.store, dataset, manifest, encoders, EngineSettings(), "test", "cpu")

    with Lease(dataset, "first") as lease:
        with pytest.raises(ConfigError, match="run-live"), Lease(dataset, "second"):
            pass
        plan = make_plan(inputs, dataset, ["txt"], retry_quarantined=False)
        assert list(plan.todo) == ["a", "b"]
        for unit in plan.todo.values():
            assert worker.encode(unit.tar, unit.groups, 1).groups[0].committed
        assert not worker.encode(inputs.tars[0], ["txt"], 2).groups[0].committed
        dataset.create("shards/a/txt-00007-0000000000000000.arrow", b"left by a dead attempt")
        totals = finalize(dataset, ["txt"], lease.dead, collect_orphans=True)
    assert totals.orphans == ("shards/a/txt-00007-0000000000000000.arrow",)
    assert (totals.num_records, totals.num_inputs, totals.num_encoded, totals.num_rejects) == (2, 22, 20, 2)
    assert make_plan(inputs, dataset, ["txt"], retry_quarantined=False).todo == {}

    ds = schemas.open_dataset("s3://bucket/run")
    rows = list(ds.rows("txt"))
    assert [row.caption for row in rows if not row.is_null] == [f"a picture of {i}" for i in range(10)] * 2
    for name in ENCODER_NAMES:
        assert rows[0][name].hidden.tobytes() == rows[11][name].hidden.tobytes()
    report = validate("s3://bucket/run", "values")
    assert report.ok, report

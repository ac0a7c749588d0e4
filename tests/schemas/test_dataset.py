"""What is read equals what was written, in every container, padding policy and storage dtype."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pytest
import webdataset

import schemas
from schemas.identity import ENCODER_NAMES
from schemas.ledger import part_path
from tests.datasets import make_manifest, samples, tensors, write_dataset

pytestmark = pytest.mark.parametrize("container", ["arrow", "webdataset"])


@pytest.mark.parametrize("storage_dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("padding", ["max_length", "none"])
def test_values_are_bit_equal(tmp_path: Path, container: str, storage_dtype: str, padding: str) -> None:
    manifest = make_manifest(container, padding, storage_dtype)
    rows = {"b/00001": samples(11, missing=[3, 10]), "a": samples(4), "empty": []}
    write_dataset(str(tmp_path), manifest, {"txt": rows})
    ds = schemas.open_dataset(str(tmp_path))
    assert ds.groups == ("txt",)
    assert ds.num_rows("txt") == 15
    assert ds.shards("txt") == ("a", "b/00001", "empty")
    found = list(ds.rows("txt"))
    assert [row.key for row in found] == [row.key for row in [*rows["a"], *rows["b/00001"]]]
    for row, sample in zip(found, [*rows["a"], *rows["b/00001"]], strict=True):
        assert row.caption == sample.caption
        assert row.is_null == (sample.caption is None)
        if row.is_null:
            with pytest.raises(schemas.ContractError, match="row-null"):
                row["t5"]
            continue
        for name in ENCODER_NAMES:
            num_tokens, expected = tensors(manifest.captions.encoder(name), sample)
            assert row[name].num_tokens == num_tokens
            for field in ("hidden", "pooled", "eos"):
                actual = getattr(row[name], field)
                if field not in expected:
                    assert actual is None
                    continue
                assert actual.dtype == expected[field].dtype
                assert actual.shape == expected[field].shape
                assert actual.tobytes() == expected[field].tobytes()


def test_a_chunk_is_one_ranged_read(tmp_path: Path, container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write_dataset(str(tmp_path), make_manifest(container), {"txt": {"s": samples(30)}})
    ds = schemas.open_dataset(str(tmp_path))
    assert len(ds.record("txt", "s").parts) > 1
    reads: list[tuple[str, int, int]] = []
    original = type(store).get_range
    monkeypatch.setattr(type(store), "get_range", lambda self, *a: reads.append(a) or original(self, *a))
    monkeypatch.setattr(type(store), "get", lambda *_: pytest.fail("a whole object was read"))
    batch = ds.read_chunk("txt", "s", 7)
    assert isinstance(batch, pa.RecordBatch)
    assert batch.column("key").to_pylist() == ["00028", "00029"]
    assert len(reads) == 1
    with pytest.raises(IndexError):
        ds.read_chunk("txt", "s", 8)


def test_the_ledger_shows_what_the_index_does_not(tmp_path: Path, container: str) -> None:
    write_dataset(str(tmp_path), make_manifest(container), {"txt": {"s": samples(3)}})
    (tmp_path / "index.arrow").unlink()
    assert schemas.open_dataset(str(tmp_path)).num_rows("txt") == 3
    assert schemas.open_dataset(str(tmp_path), source="ledger").num_rows("txt") == 3


def test_other_readers_open_the_parts(tmp_path: Path, container: str) -> None:
    """pyarrow's own file reader and webdataset's own tar reader, without any code of ours."""
    write_dataset(str(tmp_path), make_manifest(container), {"json.long": {"s": samples(9, missing=[2])}})
    ds = schemas.open_dataset(str(tmp_path))
    keys: list[str] = []
    for part in ds.record("json.long", "s").parts:
        path = tmp_path / part_path("s", part.name)
        if container == "arrow":
            table = pa.ipc.open_file(str(path)).read_all()
            keys += table.column("key").to_pylist()
            continue
        for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False):
            row = pa.ipc.open_stream(io.BytesIO(sample["json.long.arrow"])).read_all()
            assert row.column("key").to_pylist() == [sample["__key__"]]
            keys.append(sample["__key__"])
    assert keys == [row.key for row in samples(9)]


def test_a_flipped_byte_is_named_before_use(tmp_path: Path, container: str) -> None:
    write_dataset(str(tmp_path), make_manifest(container), {"txt": {"s": samples(6)}})
    ds = schemas.open_dataset(str(tmp_path))
    path = tmp_path / part_path("s", ds.record("txt", "s").parts[0].name)
    damaged = bytearray(path.read_bytes())
    damaged[ds.record("txt", "s").parts[0].chunks[0].offset + 50] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(schemas.DamagedDataError, match="chunk-checksum"):
        list(ds.rows("txt"))
    path.unlink()
    with pytest.raises(schemas.MissingObjectError, match="object-missing"):
        list(ds.rows("txt"))


def test_nothing_there(tmp_path: Path, container: str) -> None:
    with pytest.raises(schemas.MissingObjectError, match=r"manifest\.json"):
        schemas.open_dataset(str(tmp_path / container))
    assert not (tmp_path / container).exists()

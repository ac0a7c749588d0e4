"""Identities: equal ones pass, different ones are refused with every field that differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.errors import DamagedDataError, IdentityMismatchError, MissingObjectError
from schemas.identity import EncoderIdentity, differences, require_same
from schemas.manifest import Manifest, create_or_require_same, read_manifest
from schemas.storage import Store
from tests.datasets import make_identity, make_manifest

OTHER: dict[str, Any] = {
    "source": "elsewhere",
    "revision": "abc",
    "weights_sha256": "0" * 64,
    "tokenizer": "open_clip",
    "tokenizer_sha256": "0" * 64,
    "exclamation_as_pad": True,
    "architecture": {"layers": 3, "width": 64},
    "hidden_layer": "last",
    "hidden_size": 7,
    "pooled_size": 5,
    "max_tokens": 77,
    "pad_token_id": 9,
    "eos_token_id": 9,
    "padding": "none",
    "attention_mask": True,
    "compute_dtype": "bfloat16",
    "storage_dtype": "float32",
}

IDENTITY = "5cc1990b5f6063bbe4bc091d80b5b476d5122ca4d7732a7c2805479d3257bd5d"


def changed(manifest: Manifest, **fields: Any) -> Manifest:
    t5 = EncoderIdentity.model_validate(manifest.captions.t5.model_dump() | fields)
    return manifest.model_copy(update={"captions": manifest.captions.model_copy(update={"t5": t5})})


def test_the_same_passes() -> None:
    assert differences(make_identity(), make_identity()) == []
    require_same(make_identity(), make_identity(), where="x")


def test_every_field_counts() -> None:
    assert {*OTHER, "name"} == set(EncoderIdentity.model_fields)


@pytest.mark.parametrize("field", OTHER)
def test_a_difference_is_refused_and_named(field: str, tmp_path: Path) -> None:
    manifest = make_manifest()
    other = changed(manifest, **{field: OTHER[field]})
    assert other.identity_sha256 != manifest.identity_sha256
    store = Store(str(tmp_path))
    create_or_require_same(store, manifest)
    with pytest.raises(IdentityMismatchError) as caught:
        create_or_require_same(store, other)
    assert caught.value.code == "identity-mismatch"
    assert f"captions.t5.{field}" in caught.value.actual
    assert caught.value.actual.count(" -> ") == 1 + 1  # the heading and the one line
    assert read_manifest(store) == manifest


def test_all_differences_are_listed_at_once() -> None:
    manifest = make_manifest()
    lines = differences(manifest.captions, changed(manifest, **OTHER).captions)
    assert [line.split(":")[0] for line in lines] == [
        f"t5.{field}" + (".layers" if field == "architecture" else "")
        for field in EncoderIdentity.model_fields
        if field in OTHER
    ]
    assert "t5.max_tokens: 12 -> 77" in lines


def test_the_layout_counts_and_the_maker_does_not(tmp_path: Path) -> None:
    store, manifest = Store(str(tmp_path)), make_manifest()
    create_or_require_same(store, manifest)
    created = manifest.created.model_copy(update={"run_id": "another", "time": "later"})
    again = manifest.model_copy(update={"created": created})
    assert again.identity_sha256 == manifest.identity_sha256
    assert create_or_require_same(store, again).created.run_id == "test"
    with pytest.raises(IdentityMismatchError, match=r"layout\.chunk_rows: 4 -> 5"):
        create_or_require_same(store, make_manifest(chunk_rows=5))


def test_the_digest_never_changes() -> None:
    """It stands in every record and part of every dataset."""
    assert make_manifest().identity_sha256 == IDENTITY


def test_a_manifest_is_checked_when_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(MissingObjectError):
        read_manifest(store)
    create_or_require_same(store, make_manifest())
    (tmp_path / "manifest.json").write_bytes((tmp_path / "manifest.json").read_bytes().replace(b"test/t5", b"test/t6"))
    with pytest.raises(DamagedDataError):
        read_manifest(store)


@pytest.mark.parametrize("field", [{"max_tokens": 0}, {"padding": "left"}, {"storage_dtype": "int8"}, {"extra": 1}])
def test_nonsense_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        changed(make_manifest(), **field)

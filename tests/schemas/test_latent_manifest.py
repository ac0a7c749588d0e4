"""The latents' manifest: what it refuses, that it never changes, that it fits the captions' whichever comes first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import schemas
from schemas.errors import ContractError, DamagedDataError, IdentityMismatchError
from schemas.identity import LatentIdentity
from schemas.latent_manifest import (
    LATENTS_GROUP,
    LatentManifest,
    create_latents_or_require_same,
    load_latent_manifest,
    read_latent_manifest,
)
from schemas.manifest import LATENT_MANIFEST_PATH, MANIFEST_PATH, create_or_require_same
from schemas.storage import Store
from tests.datasets import make_latent_manifest, make_manifest, samples, write_dataset

IDENTITY = "3f84f496cbab79c73bb79499b280eff05566315ab4bda1d5a0b5c61fea4f0e84"

OTHER: dict[str, Any] = {
    "source": "elsewhere",
    "revision": "abc",
    "weights_sha256": "0" * 64,
    "architecture": {"latent_channels": 4},
    "num_channels": 4,
    "downscale_factor": 4,
    "shift_factor": 0.0,
    "scaling_factor": 0.18215,
    "resolution": 64,
    "buckets": ((32, 32), (16, 48)),
    "resample": "bicubic",
    "compute_dtype": "bfloat16",
    "storage_dtype": "float32",
}


def changed(manifest: LatentManifest, **fields: Any) -> LatentManifest:
    identity = LatentIdentity.model_validate(manifest.latents.model_dump() | fields)
    return manifest.model_copy(update={"latents": identity})


def with_layout(manifest: Any, **fields: Any) -> Any:
    return manifest.model_copy(update={"layout": manifest.layout.model_copy(update=fields)})


@pytest.mark.parametrize("field", OTHER)
def test_a_difference_is_refused_and_named(field: str, tmp_path: Path) -> None:
    manifest = make_latent_manifest()
    other = changed(manifest, **{field: OTHER[field]})
    assert other.identity_sha256 != manifest.identity_sha256
    store = Store(str(tmp_path))
    assert create_latents_or_require_same(store, manifest) == manifest
    before = store.get(LATENT_MANIFEST_PATH)
    with pytest.raises(IdentityMismatchError, match=rf"latents\.{field}"):
        create_latents_or_require_same(store, other)
    assert store.get(LATENT_MANIFEST_PATH) == before


def test_every_field_counts() -> None:
    # The others can only change together with what is among them.
    assert {*OTHER, "kind", "posterior", "crop"} == set(LatentIdentity.model_fields)


def test_the_digest_stays() -> None:
    """Written down by hand: a digest that changes makes every dataset a stranger to its own manifest."""
    assert make_latent_manifest().identity_sha256 == IDENTITY
    later = make_latent_manifest().created.model_copy(update={"run_id": "later"})
    assert make_latent_manifest().model_copy(update={"created": later}).identity_sha256 == IDENTITY


def test_it_is_read_as_written(tmp_path: Path) -> None:
    store, manifest = Store(str(tmp_path)), make_latent_manifest(kind="pixels")
    assert read_latent_manifest(store) is None
    create_latents_or_require_same(store, manifest)
    assert read_latent_manifest(store) == manifest
    assert create_latents_or_require_same(store, manifest) == manifest


def test_a_changed_byte_is_found() -> None:
    data = make_latent_manifest().dump()
    for wrong in (data[:-1], data.replace(b"0.0609", b"0.0608"), data.replace(b"  ", b" ", 1)):
        with pytest.raises(DamagedDataError, match="document-damaged"):
            load_latent_manifest(wrong, where="x")


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("pixels", {"num_channels": 1}),
        ("pixels", {"downscale_factor": 8}),
        ("pixels", {"shift_factor": 0.5}),
        ("pixels", {"scaling_factor": 2.0}),
        ("pixels", {"storage_dtype": "float32"}),
        ("pixels", {"weights_sha256": "0" * 64}),
        ("pixels", {"posterior": "mode"}),
        ("pixels", {"architecture": {"layers": 1}}),
        ("autoencoder_kl", {"storage_dtype": "uint8"}),
        ("autoencoder_kl", {"weights_sha256": None}),
        ("autoencoder_kl", {"posterior": None}),
        ("autoencoder_kl", {"buckets": ()}),
        ("autoencoder_kl", {"buckets": ((32, 32), (32, 32))}),
        ("autoencoder_kl", {"buckets": ((32, 36),)}),
        ("autoencoder_kl", {"buckets": ((32, 0),)}),
        ("autoencoder_kl", {"crop": "center"}),
        ("autoencoder_kl", {"shift_factor": float("nan")}),
        ("autoencoder_kl", {"scaling_factor": 0.0}),
        ("autoencoder_kl", {"comment": "x"}),
    ],
)
def test_what_cannot_be(kind: Any, wrong: dict[str, Any]) -> None:
    honest = make_latent_manifest(kind=kind).latents.model_dump()
    LatentIdentity.model_validate(honest)
    with pytest.raises(ValidationError):
        LatentIdentity.model_validate(honest | wrong)


@pytest.mark.parametrize("field", ["container", "chunk_rows", "part_bytes"])
@pytest.mark.parametrize("latents_first", [True, False])
def test_the_second_manifest_has_the_layout_of_the_first(tmp_path: Path, field: str, latents_first: bool) -> None:
    store = Store(str(tmp_path))
    wrong = {"container": "webdataset", "chunk_rows": 5, "part_bytes": 6}
    if latents_first:
        create_latents_or_require_same(store, make_latent_manifest())
        with pytest.raises(IdentityMismatchError, match=rf"layout\.{field}"):
            create_or_require_same(store, with_layout(make_manifest(), **{field: wrong[field]}))
        assert store.head(MANIFEST_PATH) is None
        create_or_require_same(store, make_manifest())
    else:
        create_or_require_same(store, make_manifest())
        with pytest.raises(IdentityMismatchError, match=rf"layout\.{field}"):
            create_latents_or_require_same(store, with_layout(make_latent_manifest(), **{field: wrong[field]}))
        assert store.head(LATENT_MANIFEST_PATH) is None
        create_latents_or_require_same(store, make_latent_manifest())


@pytest.mark.parametrize("latents_first", [True, False])
def test_two_runs_that_begin_at_the_same_moment(
    tmp_path: Path, latents_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other manifest appears after it was looked for, and before this one is there."""
    store, create = Store(str(tmp_path)), Store.create
    other = with_layout(make_latent_manifest() if latents_first else make_manifest(), chunk_rows=9)

    def create_late(self: Store, path: str, data: bytes) -> bool:
        create(self, LATENT_MANIFEST_PATH if latents_first else MANIFEST_PATH, other.dump())
        return create(self, path, data)

    monkeypatch.setattr(Store, "create", create_late)
    run = create_or_require_same if latents_first else create_latents_or_require_same
    with pytest.raises(IdentityMismatchError, match=r"layout\.chunk_rows"):
        run(store, make_manifest() if latents_first else make_latent_manifest())


def test_a_damaged_manifest_of_the_other_kind_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    create_or_require_same(store, make_manifest())
    (tmp_path / MANIFEST_PATH).write_bytes(b"{}")
    with pytest.raises(DamagedDataError, match=r"manifest\.json"):
        create_latents_or_require_same(store, make_latent_manifest())


def test_a_reader_refuses_what_does_not_fit(tmp_path: Path) -> None:
    write_dataset(str(tmp_path), make_manifest(), {"txt": {"s": samples(5)}}, make_latent_manifest())
    path = tmp_path / LATENT_MANIFEST_PATH
    honest = path.read_bytes()
    path.write_bytes(with_layout(make_latent_manifest(), chunk_rows=9).dump())
    with pytest.raises(ContractError, match="layouts-differ"):
        schemas.open_dataset(str(tmp_path))
    path.write_bytes(changed(make_latent_manifest(), resample="bicubic").dump())
    dataset = schemas.open_dataset(str(tmp_path))
    with pytest.raises(ContractError, match="record-identity"):
        dataset.read_chunk(LATENTS_GROUP, "s", 0)
    assert dataset.read_chunk("txt", "s", 0).num_rows == 4
    path.write_bytes(honest[:-2])
    with pytest.raises(DamagedDataError, match=r"manifest\.latents\.json"):
        schemas.open_dataset(str(tmp_path))
    path.unlink()
    dataset = schemas.open_dataset(str(tmp_path))
    with pytest.raises(ContractError, match=r"manifest-missing.*\n.*manifest\.latents\.json"):
        dataset.read_chunk(LATENTS_GROUP, "s", 0)

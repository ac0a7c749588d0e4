"""`manifest.latents.json`: how the image latents of a dataset were made. Made once, and never changed.

A dataset may have captions only, latents only, or both; whichever manifest comes second has the layout of the first, so
that one chunk of captions and one of latents make the same samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from schemas.documents import digest, seal
from schemas.errors import ContractError, MissingObjectError
from schemas.identity import LatentIdentity, require_same
from schemas.manifest import (
    FORMAT,
    FORMAT_VERSION,
    LATENT_MANIFEST_PATH,
    MANIFEST_PATH,
    Layout,
    Manifest,
    Provenance,
    load_as,
    read_manifest,
    require_layout,
    require_readable,
)
from schemas.storage import Store

LATENTS_GROUP = "latents"
"""The group of image latents. No caption group may have its name."""


class LatentManifest(BaseModel):
    """Identity and layout of a dataset's image latents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["encode-once"] = FORMAT
    format_version: int = FORMAT_VERSION
    layout: Layout
    latents: LatentIdentity
    created: Provenance

    @model_validator(mode="after")
    def _can_be_read(self) -> LatentManifest:
        require_readable(self.layout, self.row_bytes)
        return self

    @property
    def row_bytes(self) -> int:
        """Raw bytes of the largest image's tensor."""
        return self.latents.row_bytes

    @property
    def identity_sha256(self) -> str:
        """Digest of everything that decides stored bytes; every ledger record of the group carries it."""
        body = self.model_dump(mode="json")
        return digest({name: body[name] for name in ("format", "format_version", "layout", "latents")})

    def dump(self) -> bytes:
        """The bytes of `manifest.latents.json`."""
        return seal(self.model_dump(mode="json"), for_people=True)


def load_latent_manifest(data: bytes, *, where: str) -> LatentManifest:
    """Reads `manifest.latents.json`.

    Raises:
        DamagedDataError: The bytes are not what was written.
        ContractError: The document is whole but of another format or version.
    """
    return load_as(LatentManifest, LATENT_MANIFEST_PATH, data, where=where)


def read_latent_manifest(store: Store) -> LatentManifest | None:
    """The latents' manifest of the dataset at `store`; None if it has none.

    Raises:
        DamagedDataError, ContractError: As `load_latent_manifest`.
    """
    if store.head(LATENT_MANIFEST_PATH) is None:
        return None
    return load_latent_manifest(store.get(LATENT_MANIFEST_PATH), where=store.locate(LATENT_MANIFEST_PATH))


def create_latents_or_require_same(store: Store, manifest: LatentManifest) -> LatentManifest:
    """Makes the latents' manifest, or checks that the one already there has the same identity and layout.

    Returns:
        The manifest that is stored.

    Raises:
        IdentityMismatchError: The latents were made with another identity, or the captions with another layout; lists
            the fields that differ.
    """
    if store.head(LATENT_MANIFEST_PATH) is None:
        require_layout(store, MANIFEST_PATH, manifest.layout)
        if store.create(LATENT_MANIFEST_PATH, manifest.dump()):
            # Once more, as a run that makes the other document at this moment may have seen none of this one.
            require_layout(store, MANIFEST_PATH, manifest.layout)
            return manifest
    stored = read_latent_manifest(store)
    assert stored is not None
    require_same(_comparable(stored), _comparable(manifest), where=store.locate(LATENT_MANIFEST_PATH))
    require_layout(store, MANIFEST_PATH, stored.layout)
    return stored


class _Comparable(BaseModel):
    layout: Layout
    latents: LatentIdentity


def _comparable(manifest: LatentManifest) -> _Comparable:
    return _Comparable(layout=manifest.layout, latents=manifest.latents)


@dataclass(frozen=True)
class Manifests:
    """The manifests of a dataset; at least one is there.

    Attributes:
        captions: `manifest.json`.
        latents: `manifest.latents.json`.
    """

    captions: Manifest | None
    latents: LatentManifest | None

    @property
    def layout(self) -> Layout:
        """The layout, the same in both."""
        found = self.captions or self.latents
        assert found is not None
        return found.layout

    def of(self, group: str) -> Manifest | LatentManifest | None:
        """The manifest that a group's records are of; None if there is none of its kind."""
        return self.latents if group == LATENTS_GROUP else self.captions


def read_manifests(store: Store) -> Manifests:
    """Whichever manifests the dataset at `store` has.

    Raises:
        MissingObjectError: There is no dataset there.
        DamagedDataError: A manifest is not what was written.
        ContractError: A manifest is of another version, or the two have different layouts.
    """
    latents = read_latent_manifest(store)
    try:
        captions: Manifest | None = read_manifest(store)
    except MissingObjectError:
        if latents is None:
            raise
        captions = None
    if captions is not None and latents is not None and captions.layout != latents.layout:
        raise layouts_differ(captions.layout, latents.layout, where=store.locate(LATENT_MANIFEST_PATH))
    return Manifests(captions, latents)


def layouts_differ(captions: Layout, latents: Layout, *, where: str) -> ContractError:
    """Two manifests under which chunks do not coincide."""
    return ContractError(
        "layouts-differ",
        where=where,
        expected=f"the layout of {MANIFEST_PATH}: {captions}",
        actual=str(latents),
        remedy=f"delete {LATENT_MANIFEST_PATH} and the ledger records of group {LATENTS_GROUP!r}, or {MANIFEST_PATH} "
        "and those of all other groups; then encode what was deleted again, with the layout that stays",
    )

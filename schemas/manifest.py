"""`manifest.json`: what a dataset is. Made once, by the first run, and never changed."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.documents import digest, seal, unseal
from schemas.errors import ContractError
from schemas.identity import CaptionIdentity, require_same
from schemas.storage import Store

FORMAT: Final = "encode-once"
FORMAT_VERSION = 1
MANIFEST_PATH = "manifest.json"

Container = Literal["arrow", "webdataset"]
CONTAINER_SUFFIX: dict[Container, str] = {"arrow": ".arrow", "webdataset": ".tar"}


class Layout(BaseModel):
    """How rows are laid out; the same for all groups of a dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    container: Container
    chunk_rows: int = Field(gt=0, description="rows of every chunk but a shard's last")
    part_bytes: int = Field(gt=0, description="a part file is closed before it would grow beyond this")


class Provenance(BaseModel):
    """Who made the dataset; recorded, never compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    time: str = Field(description="UTC, ISO 8601")
    versions: dict[str, str] = Field(description="library versions")


class Manifest(BaseModel):
    """Identity and layout of a dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["encode-once"] = FORMAT
    format_version: int = FORMAT_VERSION
    layout: Layout
    captions: CaptionIdentity
    created: Provenance

    @property
    def identity_sha256(self) -> str:
        """Digest of everything that decides stored bytes; every ledger record carries it."""
        body = self.model_dump(mode="json")
        return digest({name: body[name] for name in ("format", "format_version", "layout", "captions")})

    def dump(self) -> bytes:
        """The bytes of `manifest.json`."""
        return seal(self.model_dump(mode="json"), for_people=True)


def load_manifest(data: bytes, *, where: str) -> Manifest:
    """Reads `manifest.json`.

    Raises:
        DamagedDataError: The bytes are not what was written.
        ContractError: The document is whole but of another format or version.
    """
    body = unseal(data, where=where)
    if body.get("format") != FORMAT or body.get("format_version") != FORMAT_VERSION:
        raise ContractError(
            "format-version-unknown",
            where=where,
            expected=f"format {FORMAT!r} version {FORMAT_VERSION}",
            actual=f"format {body.get('format')!r} version {body.get('format_version')!r}",
            remedy="use the encode-once release that wrote the dataset, or a later one that still reads its version",
        )
    try:
        return Manifest.model_validate(body)
    except ValidationError as error:
        raise ContractError(
            "manifest-invalid",
            where=where,
            expected="the fields of SPEC.md, Manifest",
            actual=str(error).replace("\n", " ")[:500],
            remedy="restore manifest.json; it is never edited by hand",
        ) from error


def read_manifest(store: Store) -> Manifest:
    """The manifest of the dataset at `store`.

    Raises:
        MissingObjectError: There is no dataset there.
        DamagedDataError, ContractError: As `load_manifest`.
    """
    return load_manifest(store.get(MANIFEST_PATH), where=store.locate(MANIFEST_PATH))


def create_or_require_same(store: Store, manifest: Manifest) -> Manifest:
    """Makes the dataset's manifest, or checks that the one already there has the same identity and layout.

    Returns:
        The manifest that is stored.

    Raises:
        IdentityMismatchError: The dataset was made with another identity; lists the fields that differ.
    """
    if store.head(MANIFEST_PATH) is None and store.create(MANIFEST_PATH, manifest.dump()):
        return manifest
    stored = read_manifest(store)
    where = store.locate(MANIFEST_PATH)
    require_same(_comparable(stored), _comparable(manifest), where=where)
    return stored


class _Comparable(BaseModel):
    layout: Layout
    captions: CaptionIdentity


def _comparable(manifest: Manifest) -> _Comparable:
    return _Comparable(layout=manifest.layout, captions=manifest.captions)

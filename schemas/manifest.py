"""`manifest.json`: layout and caption encoders of a dataset. Made once, by the first run, and never changed.

The identity of image latents stands in a document of its own, `schemas.latent_manifest`, so that either kind can come
first and neither document ever changes. What the two have in common is here.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.documents import digest, seal, unseal
from schemas.errors import ContractError
from schemas.identity import CaptionIdentity, require_same
from schemas.limits import MAX_CHUNK_BYTES, MAX_CHUNK_ROWS, MAX_ROW_BYTES
from schemas.storage import Store

FORMAT: Final = "encode-once"
FORMAT_VERSION = 1
MANIFEST_PATH = "manifest.json"
LATENT_MANIFEST_PATH = "manifest.latents.json"

Container = Literal["arrow", "webdataset"]
CONTAINER_SUFFIX: dict[Container, str] = {"arrow": ".arrow", "webdataset": ".tar"}


class Layout(BaseModel):
    """How rows are laid out; the same for all groups of a dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    container: Container
    chunk_rows: int = Field(gt=0, le=MAX_CHUNK_ROWS, description="rows of every chunk but a shard's last")
    part_bytes: int = Field(gt=0, description="a part file is closed before it would grow beyond this")


def require_readable(layout: Layout, row_bytes: int) -> None:
    """Refuses a layout whose chunks no reader would take into memory.

    Args:
        layout: Of a dataset.
        row_bytes: Raw bytes of the tensors of its largest row.

    Raises:
        ValueError: A row or a chunk is larger than `schemas.limits` allows.
    """
    if row_bytes > MAX_ROW_BYTES:
        raise ValueError(f"rows of {row_bytes} bytes, more than {MAX_ROW_BYTES}")
    if layout.chunk_rows * row_bytes > MAX_CHUNK_BYTES:
        raise ValueError(f"chunks of {layout.chunk_rows} rows of {row_bytes} bytes, more than {MAX_CHUNK_BYTES}")


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

    @model_validator(mode="after")
    def _can_be_read(self) -> Manifest:
        require_readable(self.layout, self.row_bytes)
        return self

    @property
    def row_bytes(self) -> int:
        """Raw bytes of the tensors of the largest row there can be."""
        return self.captions.row_bytes

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
    return load_as(Manifest, MANIFEST_PATH, data, where=where)


_Document = TypeVar("_Document", bound=BaseModel)


def load_as(model: type[_Document], name: str, data: bytes, *, where: str) -> _Document:
    """Reads a manifest of either kind; `name` is its name in the dataset.

    Raises:
        DamagedDataError: The bytes are not what was written.
        ContractError: The document is whole but of another format or version.
    """
    body = _unseal_known(data, where=where)
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _invalid(name, error, where=where) from error


def _unseal_known(data: bytes, *, where: str) -> dict[str, Any]:
    body = unseal(data, where=where)
    if body.get("format") != FORMAT or body.get("format_version") != FORMAT_VERSION:
        raise ContractError(
            "format-version-unknown",
            where=where,
            expected=f"format {FORMAT!r} version {FORMAT_VERSION}",
            actual=f"format {body.get('format')!r} version {body.get('format_version')!r}",
            remedy="use the encode-once release that wrote the dataset, or a later one that still reads its version",
        )
    return body


def _invalid(name: str, error: ValidationError, *, where: str) -> ContractError:
    return ContractError(
        "manifest-invalid",
        where=where,
        expected="the fields of SPEC.md, Manifest",
        actual=str(error).replace("\n", " ")[:500],
        remedy=f"restore {name}; it is never edited by hand",
    )


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
        IdentityMismatchError: The dataset was made with another identity, or its latents with another layout; lists the
            fields that differ.
    """
    if store.head(MANIFEST_PATH) is None:
        require_layout(store, LATENT_MANIFEST_PATH, manifest.layout)
        if store.create(MANIFEST_PATH, manifest.dump()):
            # Once more, as a run that makes the other document at this moment may have seen none of this one.
            require_layout(store, LATENT_MANIFEST_PATH, manifest.layout)
            return manifest
    stored = read_manifest(store)
    where = store.locate(MANIFEST_PATH)
    require_same(_comparable(stored), _comparable(manifest), where=where)
    require_layout(store, LATENT_MANIFEST_PATH, stored.layout)
    return stored


def require_layout(store: Store, other: str, layout: Layout) -> None:
    """Checks that the manifest of the other kind, if there is one, has the same layout, so that chunks coincide.

    Args:
        store: The dataset.
        other: Path of the other manifest.
        layout: Of this one.

    Raises:
        IdentityMismatchError: It has another; lists the fields that differ.
        DamagedDataError, ContractError: It cannot be read.
    """
    if store.head(other) is None:
        return
    where = store.locate(other)
    try:
        found = _LayoutOnly.model_validate(_unseal_known(store.get(other), where=where))
    except ValidationError as error:
        raise _invalid(other, error, where=where) from error
    require_same(found, _LayoutOnly(layout=layout), where=where)


class _LayoutOnly(BaseModel):
    layout: Layout


class _Comparable(BaseModel):
    layout: Layout
    captions: CaptionIdentity


def _comparable(manifest: Manifest) -> _Comparable:
    return _Comparable(layout=manifest.layout, captions=manifest.captions)

"""The two manifests of a dataset: which there are, whether they are whole, and whether they fit together."""

from __future__ import annotations

from schemas.errors import EncodeOnceError, MissingObjectError, StorageError
from schemas.group_schema import manifest_path
from schemas.latent_manifest import LatentManifest, Manifests, layouts_differ, read_latent_manifest
from schemas.ledger import LEDGER_FOLDER
from schemas.manifest import LATENT_MANIFEST_PATH, MANIFEST_PATH, Manifest, read_manifest
from schemas.storage import Store
from schemas.validator.codes import Code
from schemas.validator.findings import Findings
from schemas.validator.objects import Listing


def check_manifests(store: Store, findings: Findings) -> Manifests | None:
    """Reads whichever manifests a dataset has.

    Returns:
        Those that can be read; None if none can: nothing else can be judged then, as neither layout nor identity is
        known.

    Raises:
        MissingObjectError: There is no dataset.
        StorageError: The store cannot be reached.
    """
    captions, captions_absent = _read_captions(store, findings)
    latents, latents_absent = _read_latents(store, findings)
    if captions_absent and latents_absent:
        groups = {info.path.split("/")[1] for info in store.list(LEDGER_FOLDER)}
        for path in sorted({manifest_path(group) for group in groups}):
            findings.add(Code.MANIFEST_MISSING, path, expected="a manifest", actual="not found, beside a ledger")
        if not groups:
            read_manifest(store)
    if captions is None and latents is None:
        return None
    if captions is not None and latents is not None and captions.layout != latents.layout:
        error = layouts_differ(captions.layout, latents.layout, where=LATENT_MANIFEST_PATH)
        findings.add_error(error, LATENT_MANIFEST_PATH)
    return Manifests(captions, latents)


def check_every_kind(store: Store, manifests: Manifests, listing: Listing, findings: Findings) -> None:
    """Reports groups that are committed beside no manifest of their kind."""
    committed = {group for groups in listing.records.values() for group in groups}
    for path in sorted({manifest_path(group) for group in committed if manifests.of(group) is None}):
        if store.head(path) is None:  # one that is there has been found damaged
            groups = ", ".join(sorted(group for group in committed if manifest_path(group) == path))
            actual = f"not found, beside a ledger of {groups}"
            findings.add(Code.MANIFEST_MISSING, path, expected="a manifest", actual=actual)


def _read_captions(store: Store, findings: Findings) -> tuple[Manifest | None, bool]:
    """The manifest if it can be read, and whether there is none."""
    try:
        return read_manifest(store), False
    except MissingObjectError:
        return None, True
    except StorageError:
        raise
    except EncodeOnceError as error:
        findings.add_error(error, MANIFEST_PATH)
        return None, False


def _read_latents(store: Store, findings: Findings) -> tuple[LatentManifest | None, bool]:
    try:
        found = read_latent_manifest(store)
    except StorageError:
        raise
    except EncodeOnceError as error:
        findings.add_error(error, LATENT_MANIFEST_PATH)
        return None, False
    return found, found is None

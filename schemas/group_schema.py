"""The Arrow schema of any column group, captions or latents."""

from __future__ import annotations

import pyarrow as pa

from schemas.arrow_schema import caption_schema
from schemas.errors import ContractError
from schemas.latent_manifest import LATENTS_GROUP, LatentManifest, Manifests
from schemas.latent_schema import latent_schema
from schemas.manifest import LATENT_MANIFEST_PATH, MANIFEST_PATH, Manifest


def manifest_path(group: str) -> str:
    """Where the manifest of a group's kind is."""
    return LATENT_MANIFEST_PATH if group == LATENTS_GROUP else MANIFEST_PATH


def require_manifest(manifests: Manifests, group: str, *, where: str) -> Manifest | LatentManifest:
    """The manifest of a group's kind.

    Raises:
        ContractError: The dataset has none of that kind.
    """
    manifest = manifests.of(group)
    if manifest is None:
        raise ContractError(
            "manifest-missing",
            where=where,
            expected=f"{manifest_path(group)}, which says how group {group!r} was made",
            actual="not found",
            remedy=f"restore {manifest_path(group)} from a copy, or encode the group with the pipeline",
        )
    return manifest


def schema_of(manifest: Manifest | LatentManifest, group: str, shard: str) -> pa.Schema:
    """Schema of a part of a group of the manifest's kind."""
    if isinstance(manifest, LatentManifest):
        return latent_schema(manifest, shard)
    return caption_schema(manifest, group, shard)

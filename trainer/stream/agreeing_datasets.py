"""Datasets of one run are one stream: the same encoders, the same kind of images."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.dataset import Dataset, Row
from schemas.errors import ConfigError, ContractError
from schemas.identity import ENCODER_NAMES, CaptionIdentity, LatentIdentity, require_same
from schemas.manifest import MANIFEST_PATH
from trainer.conditioning import ConditioningConfig
from trainer.stream.merged import EmptyPrompt


def same_captions(datasets: Sequence[Dataset]) -> CaptionIdentity:
    """The encoders of all datasets.

    Raises:
        IdentityMismatchError: They are not the same in all.
        ContractError: A dataset has no captions.
    """
    for other in datasets[1:]:
        require_same(datasets[0].manifest.captions, other.manifest.captions, where=other.store.locate(MANIFEST_PATH))
    return datasets[0].manifest.captions


def same_latents(datasets: Sequence[Dataset], *, wanted: bool | None) -> LatentIdentity | None:
    """How the images of all datasets were made.

    Args:
        datasets: Of one run.
        wanted: Whether images are needed; None takes them if there are any.

    Raises:
        ContractError: Some datasets have none.
        IdentityMismatchError: They are not the same in all.
    """
    found = [dataset.latents for dataset in datasets]
    if wanted is False or (wanted is None and all(manifest is None for manifest in found)):
        return None
    for dataset, manifest in zip(datasets, found, strict=True):
        if manifest is None:
            raise ContractError(
                "latents-missing",
                where=dataset.store.url,
                expected="the group latents",
                actual="captions only",
                remedy="run the encode command with --latents on the same tars",
            )
    first, *others = [manifest for manifest in found if manifest is not None]
    for dataset, manifest in zip(datasets[1:], others, strict=True):
        require_same(first.latents, manifest.latents, where=dataset.store.url)
    return first.latents


def empty_prompt(conditioning: ConditioningConfig, row: Row | None) -> EmptyPrompt | None:
    """What stands in for an encoder that is left out, if it is not zeros.

    Raises:
        ConfigError: The empty prompt is wanted and not there.
    """
    if conditioning.left_out == "zeros":
        return None
    if row is None:
        raise ConfigError(
            "empty-prompt-missing",
            where="--conditioning.left-out empty",
            expected="a prompts dataset, which holds the empty prompt",
            actual="none given",
            remedy="make one with `python -m pipeline encode-prompts` and pass it as --prompts",
        )
    return {name: (row[name].hidden, row[name].pooled) for name in ENCODER_NAMES}

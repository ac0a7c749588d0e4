"""The encoders a manifest names, in float32, and single captions through them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.encoders import EncoderConfig, TextEncoder, load_encoder, pad_token_ids
from pipeline.encoders.checkpoints import find_checkpoint
from pipeline.encoders.config import option
from pipeline.encoders.find_tokenizer import OPEN_CLIP
from schemas.errors import IdentityMismatchError
from schemas.identity import ComputeDtype, EncoderIdentity, differences
from schemas.row import EncodedCaption

# T5's biases are built for the longest caption; other pads than the manifest's are tried up to this length.
_LONGEST_TRIED = 512


@dataclass(frozen=True)
class EncoderOptions:
    """Where one encoder is, if not where the manifest says."""

    source: str | None = None
    """Hugging Face id, local folder or weights file. Default: the manifest's, at its revision."""

    revision: str | None = None
    """Branch, tag or commit of `source`."""

    subfolder: str | None = None
    """Folder inside the source that holds the weights; none = found by the encoder's usual names."""

    tokenizer: str | None = None
    """Hugging Face id or local folder of the tokenizer, or "open_clip". Default: the one beside the weights that is of
    the manifest's kind."""

    tokenizer_subfolder: str | None = None
    """Folder inside `tokenizer` that holds the tokenizer files."""

    tokenizer_revision: str | None = None
    """Branch, tag or commit where `tokenizer` is a Hugging Face id."""

    open_clip_model: str | None = None
    """open_clip's name of the architecture, for a weights file without a configuration beside it."""


def reference_config(identity: EncoderIdentity, options: EncoderOptions) -> EncoderConfig:
    """What `encode` would have to be told to encode as the manifest says.

    Raises:
        ConfigError: The weights are not where the manifest or the options say.
    """
    given = {name: value for name, value in dataclasses.asdict(options).items() if value is not None}
    recorded = {"source": identity.source} | ({} if identity.revision is None else {"revision": identity.revision})
    config = EncoderConfig(
        **({} if "source" in given else recorded) | given,
        max_tokens=identity.max_tokens,
        exclamation_as_pad=identity.exclamation_as_pad,
    )
    if config.tokenizer is not None or config.tokenizer_subfolder is not None or identity.name == "t5":
        return config
    # A manifest says which kind of tokenizer it was, not where from: here where it would not be taken by itself.
    layout = find_checkpoint(identity.name, config).layout
    if identity.tokenizer == OPEN_CLIP and layout != "open_clip":
        return dataclasses.replace(config, tokenizer=OPEN_CLIP)
    if identity.tokenizer != OPEN_CLIP and layout == "open_clip":
        return dataclasses.replace(config, tokenizer=config.source, tokenizer_revision=config.revision)
    return config


def load_as_recorded(
    identity: EncoderIdentity, config: EncoderConfig, compute_dtype: ComputeDtype, device: str
) -> TextEncoder:
    """The encoder, as the manifest says but for the dtype it computes in.

    Raises:
        ConfigError: It cannot be loaded.
    """
    return load_encoder(
        identity.name,
        config,
        padding=identity.padding,
        compute_dtype=compute_dtype,
        storage_dtype=identity.storage_dtype,
        device=device,
    )


def load_for_any_ids(identity: EncoderIdentity, config: EncoderConfig, device: str) -> TextEncoder:
    """The encoder in float32, taking ids as they are given, pads and all: nothing is padded, nothing masked.

    Raises:
        ConfigError: It cannot be loaded.
    """
    positions = identity.architecture.get("positions")
    longest = _LONGEST_TRIED if positions is None else int(positions)
    return load_encoder(
        identity.name,
        dataclasses.replace(config, max_tokens=max(longest, identity.max_tokens)),
        padding="none",
        compute_dtype="float32",
        storage_dtype=identity.storage_dtype,
        device=device,
    )


def check_reference(expected: EncoderIdentity, actual: EncoderIdentity, *, allowed: bool, where: str) -> list[str]:
    """Compares the encoder that was loaded with the manifest's, whatever they are called and compute in.

    Args:
        expected: The manifest's.
        actual: Of the encoder loaded.
        allowed: Whether to go on where they differ.
        where: The manifest's place.

    Returns:
        One line for each field that differs.

    Raises:
        IdentityMismatchError: They differ, and this is not allowed, or their outputs have other widths.
    """
    same = ("source", "revision", "compute_dtype", "storage_dtype")
    lines = differences(expected, actual.model_copy(update={name: getattr(expected, name) for name in same}))
    lines = [f"{expected.name}.{line}" for line in lines]
    widths = (expected.hidden_size, expected.pooled_size) == (actual.hidden_size, actual.pooled_size)
    options = [option(expected.name, name) for name in ("source", "revision", "subfolder", "tokenizer")]
    where = f"{expected.name} in {where}"
    return require_reference(lines, actual.source, options, comparable=widths, allowed=allowed, where=where)


def require_reference(
    differing: list[str], source: str, options: Sequence[str], *, comparable: bool, allowed: bool, where: str
) -> list[str]:
    """Refuses a reference that is not what the manifest names.

    Args:
        differing: A line for each field that differs.
        source: Of the reference.
        options: That name another one.
        comparable: Whether its outputs have the shapes of those stored.
        allowed: Whether to go on where it differs.
        where: What of which manifest.

    Returns:
        `differing`.

    Raises:
        IdentityMismatchError: It differs, and this is not allowed, or its outputs have other shapes.
    """
    if not differing or (allowed and comparable):
        return differing
    go_on = "; --allow-differences compares with this one all the same" if comparable else ""
    raise IdentityMismatchError(
        "encoder-differs",
        where=where,
        expected="the weights, and of a text encoder the tokenizer, that the manifest has the digests of",
        actual=f"others in {source} (manifest -> found here):\n    " + "\n    ".join(differing),
        remedy=f"name those that made the dataset by {', '.join(options)}{go_on}",
    )


def encode_caption(encoder: TextEncoder, caption: str) -> EncodedCaption:
    """One caption alone, padded as the encoder's identity says. Tensors are float32, on the CPU."""
    tokens = encoder.tokenizer([caption])
    token_ids, num_tokens = pad_token_ids(
        tokens.ids,
        pad_id=encoder.tokenizer.pad_id,
        max_tokens=encoder.identity.max_tokens,
        padding=encoder.identity.padding,
    )
    output = encoder.encode(token_ids, num_tokens)
    hidden, pooled, eos = (
        None if tensor is None else tensor[0].to("cpu", torch.float32).numpy()
        for tensor in (output.hidden, output.pooled, output.eos)
    )
    assert hidden is not None
    return EncodedCaption(hidden, pooled, eos, int(num_tokens[0]), bool(tokens.truncated[0]))

"""Options of one text encoder."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.errors import ConfigError
from schemas.identity import EncoderName

RANDOM_SOURCE = "random"


@dataclass(frozen=True)
class EncoderConfig:
    """Where one text encoder and its tokenizer come from, and how captions are cut for it."""

    source: str
    """Hugging Face id, local folder, local weights file, or "random" for small random weights (a demo, never for
    training). A folder or id of a whole Stable Diffusion 3 repository is searched for this encoder's subfolder."""

    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id; none = main. The resolved commit is recorded."""

    subfolder: str | None = None
    """Folder inside the source that holds the weights; none = found by the encoder's usual names."""

    tokenizer: str | None = None
    """Hugging Face id or local folder of the tokenizer, or "open_clip" for the one open_clip ships. None = open_clip's
    for open_clip weights (also where the folder holds Hugging Face tokenizer files), otherwise the files beside the
    weights."""

    tokenizer_subfolder: str | None = None
    """Folder inside `tokenizer` (inside `source`, if `tokenizer` is none) that holds the tokenizer files."""

    tokenizer_revision: str | None = None
    """Branch, tag or commit where `tokenizer` is a Hugging Face id; none = main."""

    open_clip_model: str | None = None
    """open_clip's name of the architecture ("ViT-bigG-14"), for an open_clip weights file that has no
    open_clip_config.json beside it. None = told from the tensor shapes."""

    max_tokens: int = 77
    """Most tokens kept of a caption, BOS and EOS included. CLIP models have 77 positions; T5 is used with 77 or 256."""

    exclamation_as_pad: bool = False
    """Keep a CLIP tokenizer exactly as stored. Only for equality with diffusers: the tokenizer_2 of Stable Diffusion 3
    declares "!" its pad token, so a literal "!" in a caption becomes padding (id 0) instead of token 256."""


def option(name: EncoderName, field: str) -> str:
    """The command-line option of a field, for messages: `--clip-l.max-tokens`."""
    return f"--{name}.{field}".replace("_", "-")


def require_max_tokens(name: EncoderName, config: EncoderConfig, max_positions: int | None) -> None:
    """Refuses a token limit the encoder has no positions for.

    Args:
        max_positions: Rows of the position table; None for an encoder with relative positions.

    Raises:
        ConfigError: `max_tokens` leaves no room for BOS and EOS, or exceeds the table.
    """
    if config.max_tokens >= 2 and (max_positions is None or config.max_tokens <= max_positions):
        return
    limit = "at least 2" if max_positions is None else f"2 to {max_positions}, the positions this model has"
    raise ConfigError(
        "max-tokens-out-of-range",
        where=option(name, "max_tokens"),
        expected=limit,
        actual=str(config.max_tokens),
        remedy="choose a value in this range",
    )

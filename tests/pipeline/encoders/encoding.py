"""Loading and running encoders in one line, for the tests beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.encoders import EncoderConfig, EncoderOutput, TextEncoder, load_encoder, pad_token_ids
from schemas.identity import ComputeDtype, EncoderName, Padding


def load(
    name: EncoderName,
    config: EncoderConfig | Path | str,
    *,
    padding: Padding = "max_length",
    compute_dtype: ComputeDtype = "float32",
) -> TextEncoder:
    """Loads an encoder on the CPU."""
    config = config if isinstance(config, EncoderConfig) else EncoderConfig(str(config))
    return load_encoder(
        name, config, padding=padding, compute_dtype=compute_dtype, storage_dtype="bfloat16", device="cpu"
    )


def encode(encoder: TextEncoder, captions: Sequence[str]) -> EncoderOutput:
    """Encodes captions as one batch."""
    tokenizer = encoder.tokenizer
    token_ids, num_tokens = pad_token_ids(
        tokenizer(captions).ids,
        pad_id=tokenizer.pad_id,
        max_tokens=tokenizer.max_tokens,
        padding=encoder.identity.padding,
    )
    return encoder.encode(token_ids, num_tokens)

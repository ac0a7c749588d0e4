"""What every text encoder of the pipeline offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.tokenizers import CaptionTokenizer
from schemas.identity import EncoderIdentity, EncoderName, Padding


@dataclass(frozen=True)
class EncoderOutput:
    """Outputs of one batch, in the compute dtype, on the encoder's device. B rows, T tokens, D and P widths.

    Attributes:
        hidden: [B, T, D]. Under "none" the rows past a caption's own tokens are meaningless.
        pooled: [B, P], the projected state at EOS; None for T5.
        eos: [B, D], the final-LayerNorm state at EOS before projection; None for T5.
    """

    hidden: torch.Tensor
    pooled: torch.Tensor | None
    eos: torch.Tensor | None


class TextEncoder(ABC):
    """One frozen text tower with its tokenizer.

    Attributes:
        name: "clip_l", "clip_g" or "t5".
        hidden_size: D of `hidden` and `eos`.
        pooled_size: P of `pooled`; None without one.
        tokenizer: Makes the ids `encode` takes.
        identity: Everything that decides the values.
        device: Where the weights are and the outputs will be.
    """

    def __init__(self, tokenizer: CaptionTokenizer, identity: EncoderIdentity, device: torch.device) -> None:
        self.name: EncoderName = identity.name
        self.hidden_size = identity.hidden_size
        self.pooled_size = identity.pooled_size
        self.tokenizer = tokenizer
        self.identity = identity
        self.device = device

    def encode(self, token_ids: torch.Tensor, num_tokens: torch.Tensor) -> EncoderOutput:
        """Encodes a batch of padded rows.

        Args:
            token_ids: int64 [B, T] on the encoder's device, rows filled up with `tokenizer.pad_id`. Under
                "max_length" T is `tokenizer.max_tokens`, since the pads are part of what is encoded; under "none" any T
                that holds the longest row.
            num_tokens: int64 [B], tokens of each row that are not padding.
        """
        identity = self.identity
        assert token_ids.shape[1] <= identity.max_tokens, token_ids.shape
        assert identity.padding == "none" or token_ids.shape[1] == identity.max_tokens, token_ids.shape
        with torch.inference_mode():
            return self._forward(token_ids, num_tokens)

    @abstractmethod
    def _forward(self, token_ids: torch.Tensor, num_tokens: torch.Tensor) -> EncoderOutput:
        """The forward pass of `encode`."""


def pad_token_ids(
    rows: Sequence[np.ndarray], *, pad_id: int, max_tokens: int, padding: Padding
) -> tuple[torch.Tensor, torch.Tensor]:
    """Makes `encode`'s arguments, on the CPU, of a tokenizer's rows.

    Args:
        rows: Arrays of ids, 1 to `max_tokens` each.
        padding: "max_length" fills to `max_tokens`, "none" to the longest row.

    Returns:
        int64 [B, T] and int64 [B].
    """
    num_tokens = np.array([len(row) for row in rows], dtype=np.int64)
    width = max_tokens if padding == "max_length" else int(num_tokens.max(initial=1))
    padded = np.full((len(rows), width), pad_id, dtype=np.int64)
    padded[np.arange(width) < num_tokens[:, None]] = np.concatenate([*rows, np.empty(0, dtype=np.int64)])
    return torch.from_numpy(padded), torch.from_numpy(num_tokens)


def first_position(token_ids: torch.Tensor, token_id: int) -> torch.Tensor:
    """Position [B] of the first `token_id` of each row of [B, T]."""
    # argmax of integers: the first of equal values, on every device.
    return (token_ids == token_id).int().argmax(dim=1)

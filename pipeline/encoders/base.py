"""Interface of the text encoders: a tower with its tokenizer and identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.encoders.operations import Operations
from pipeline.encoders.packed import PackedTokens, pack_tokens
from pipeline.tokenizers import CaptionTokenizer
from schemas.identity import EncoderIdentity, EncoderName, Padding


@dataclass(frozen=True)
class EncoderOutput:
    """Outputs of one batch, in the compute dtype, on the encoder's device. B rows, D and P widths.

    Attributes:
        hidden: [N, D], a packed batch's tokens one after the other; [B, T, D] as `TextEncoder.encode` gives it.
        pooled: [B, P], the projected state at EOS; None for T5.
        eos: [B, D], the final-LayerNorm state at EOS before projection; None for T5.
    """

    hidden: torch.Tensor
    pooled: torch.Tensor | None
    eos: torch.Tensor | None


class Tower(nn.Module):
    """A text tower: gives the `EncoderOutput` of `PackedTokens`.

    Args:
        operations: Implementations that it computes with.
    """

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self.operations = operations


class TextEncoder:
    """One frozen text tower with its tokenizer.

    Args:
        tower: On the device.
        tokenizer: Makes the ids.
        identity: Everything that decides the values.
        device: Where the weights are and the outputs will be.
        eos_id: EOS in token ids; None: the highest id of a caption, as CLIPs from before transformers 4.31 say it.

    Attributes:
        name: "clip_l", "clip_g" or "t5".
        hidden_size: D of `hidden` and `eos`.
        pooled_size: P of `pooled`; None without one.
        tokenizer: As given.
        identity: As given.
        device: As given.
        tower: As given, frozen; for those who look inside.
    """

    def __init__(
        self,
        tower: Tower,
        tokenizer: CaptionTokenizer,
        identity: EncoderIdentity,
        device: torch.device,
        *,
        eos_id: int | None,
    ) -> None:
        self.name: EncoderName = identity.name
        self.hidden_size = identity.hidden_size
        self.pooled_size = identity.pooled_size
        self.tokenizer = tokenizer
        self.identity = identity
        self.device = device
        self.tower = tower.eval().requires_grad_(False)
        self._eos_id = eos_id
        self._flops = _Flops.of(identity, tower)

    def model_flops(self, num_tokens: npt.NDArray[np.int64]) -> float:
        """Floating-point operations of the model for captions of these lengths, as they are usually counted.

        Two for each weight of a linear layer and token, and four for each channel of attention and pair of tokens;
        also where this implementation leaves some out.
        """
        lengths = num_tokens.astype(np.float64)
        return float(self._flops.per_token * lengths.sum() + self._flops.per_pair * (lengths**2).sum())

    def pack(self, ids: Sequence[npt.NDArray[np.integer]], *, num_computed: int = 0) -> PackedTokens:
        """Makes a batch, on the CPU, of a tokenizer's rows: padded under "max_length", as they are under "none".

        Args:
            ids: Of each caption, 1 to `max_tokens` of them; neighbours of one length are computed together.
            num_computed: Tokens to fill the batch up to.
        """
        identity = self.identity
        if identity.padding == "max_length":
            padded, _ = pad_token_ids(
                ids, pad_id=self.tokenizer.pad_id, max_tokens=identity.max_tokens, padding="max_length"
            )
            ids = list(padded.numpy())
        assert max(map(len, ids)) <= identity.max_tokens
        return pack_tokens(ids, eos_id=self._eos_id, num_computed=num_computed)

    def encode_packed(self, packed: PackedTokens) -> EncoderOutput:
        """Encodes a batch of `pack`, moving it to the device; `hidden` is [N, D], what fills the batch left out."""
        with torch.inference_mode():
            output = self.tower(packed.to(self.device))
        assert isinstance(output, EncoderOutput)
        return output

    def encode(self, token_ids: torch.Tensor, num_tokens: torch.Tensor) -> EncoderOutput:
        """Encodes a batch of padded rows.

        Args:
            token_ids: int64 [B, T], rows filled up with `tokenizer.pad_id`. Under "max_length" T is
                `tokenizer.max_tokens`, since the pads are part of what is encoded; under "none" any T that holds the
                longest row.
            num_tokens: int64 [B], tokens of each row that are not padding.

        Returns:
            `hidden` is [B, T, D]; under "none" it is zero past a caption's own tokens.
        """
        identity, (num_rows, width) = self.identity, token_ids.shape
        assert width <= identity.max_tokens, token_ids.shape
        assert identity.padding == "none" or width == identity.max_tokens, token_ids.shape
        lengths = num_tokens.tolist() if identity.padding == "none" else [width] * num_rows
        rows = [row[:length] for row, length in zip(token_ids.cpu().numpy(), lengths, strict=True)]
        output = self.encode_packed(pack_tokens(rows, eos_id=self._eos_id))
        hidden = output.hidden.new_zeros(num_rows, width, output.hidden.shape[-1])
        there = torch.arange(width) < torch.tensor(lengths)[:, None]
        hidden[there.to(self.device)] = output.hidden
        return EncoderOutput(hidden=hidden, pooled=output.pooled, eos=output.eos)


@dataclass(frozen=True)
class _Flops:
    """Attributes: per_token, per_pair: floating-point operations of a token, of a pair of tokens of one caption."""

    per_token: float
    per_pair: float

    @classmethod
    def of(cls, identity: EncoderIdentity, tower: nn.Module) -> _Flops:
        found = [getattr(layer, "weight", None) for layer in tower.modules()]
        weights = sum(weight.numel() for weight in found if weight is not None and weight.dim() == 2)
        layers, heads = int(identity.architecture["layers"] or 0), int(identity.architecture["heads"] or 0)
        head_width = int(identity.architecture.get("head_width") or identity.hidden_size // heads)
        return cls(2.0 * weights, 4.0 * layers * heads * head_width)


def pad_token_ids(
    rows: Sequence[np.ndarray], *, pad_id: int, max_tokens: int, padding: Padding
) -> tuple[torch.Tensor, torch.Tensor]:
    """Makes `TextEncoder.encode`'s arguments, on the CPU, of a tokenizer's rows.

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

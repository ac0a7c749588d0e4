"""Stored rows into the tensors of diffusers' Stable Diffusion 3.

This is the plain way, row by row: for prompts and whoever reads datasets by hand. The stream assembles whole
batches faster (`trainer.stream.gather`) and is tested to give the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from schemas.dataset import Row
from schemas.errors import ConfigError
from schemas.identity import ENCODER_NAMES, CaptionIdentity
from schemas.planes import STORAGE_DTYPES
from trainer.conditioning.layout import ContextLayout, context_layout

TORCH_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Conditioning:
    """What the model is told about a batch of B captions.

    Attributes:
        prompt_embeds: [B, T, D], the context: T = 154 for 77/77/77, 333 with T5 at 256; D = 4096.
        pooled_prompt_embeds: [B, P], P = 2048.
    """

    prompt_embeds: torch.Tensor
    pooled_prompt_embeds: torch.Tensor


def assemble(
    rows: Sequence[Row],
    identity: CaptionIdentity,
    *,
    encoders: Collection[str] = ENCODER_NAMES,
    keep: npt.NDArray[np.bool_] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    t5_tokens: int | None = None,
    empty: Row | None = None,
) -> Conditioning:
    """Assembles the conditioning of some captions.

    Args:
        rows: Rows of a caption group; none may be null.
        identity: The dataset's encoders.
        encoders: Which of "clip_l", "clip_g", "t5" to use, for all rows.
        keep: bool [B, 3], which encoders each row keeps; further restricts `encoders`.
        dtype: Of the result. Stored values are exact in float32.
        device: Of the result.
        t5_tokens: As `context_layout`.
        empty: The row of the empty prompt, to stand in for encoders that are left out. Default: zeros.

    Returns:
        Tokens that are not stored (padding "none") and encoders that are left out are zero.

    Raises:
        ConfigError: An unknown encoder, or `t5_tokens` that the dataset does not allow.
        ContractError: A row is null.
    """
    unknown = set(encoders) - set(ENCODER_NAMES)
    if unknown:
        raise ConfigError(
            "encoder-unknown",
            where="encoders",
            expected=f"some of {', '.join(ENCODER_NAMES)}",
            actual=", ".join(sorted(unknown)),
            remedy="correct the name; no encoder at all is an empty list",
        )
    layout = context_layout(identity, t5_tokens)
    chosen = np.array([name in encoders for name in ENCODER_NAMES])
    kept = np.broadcast_to(chosen, (len(rows), 3)) if keep is None else keep & chosen
    out = empty_conditioning(layout, len(rows))
    for index, row in enumerate(rows):
        for encoder, name in enumerate(ENCODER_NAMES):
            source = row if kept[index, encoder] else empty
            if source is not None:
                _put(out, index, layout, name, source)
    return Conditioning(
        torch_tensor(out[0], layout.storage_dtype).to(device, dtype),
        torch_tensor(out[1], layout.storage_dtype).to(device, dtype),
    )


def empty_conditioning(layout: ContextLayout, num_rows: int) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
    """Zeros of the layout's shapes in the storage dtype: context [B, T, D] and pooled [B, P]."""
    dtype = STORAGE_DTYPES[layout.storage_dtype]
    context = np.zeros((num_rows, layout.num_tokens, layout.width), dtype)
    return context, np.zeros((num_rows, layout.pooled_width), dtype)


def torch_tensor(array: npt.NDArray[np.generic], storage_dtype: str) -> torch.Tensor:
    """The same memory as a torch tensor; NumPy has no bfloat16 that torch would take."""
    bits = array.view({2: np.int16, 4: np.int32}[array.dtype.itemsize])
    return torch.from_numpy(bits).view(TORCH_DTYPES[storage_dtype])


def _put(
    out: tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]], index: int, layout: ContextLayout, name: str, row: Row
) -> None:
    context, pooled = out
    slot, encoded = layout.slots[name], row[name]
    hidden = encoded.hidden[: slot.num_tokens]
    context[index, slot.token : slot.token + len(hidden), slot.channel : slot.channel + slot.hidden_size] = hidden
    if encoded.pooled is not None:
        pooled[index, slot.pooled_channel : slot.pooled_channel + slot.pooled_size] = encoded.pooled

"""A text tower: a module without weights, and where each of its tensors lies in the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from pipeline.encoders.tensor_files import TensorFiles, WeightsDigest
from schemas.errors import ConfigError


@dataclass(frozen=True)
class TextTower:
    """What is known of a text tower before its weights are read.

    Attributes:
        module: Built on the meta device: shapes only.
        stored_names: Name in the checkpoint of each parameter, by its name in the tower.
        architecture: What the identity records.
        hidden_layer: Which state is stored as `hidden`, in words.
        hidden_size: Width of `hidden`.
        pooled_size: Width of `pooled`; None without one.
        max_positions: Rows of the position table; None for relative positions.
        vocab_size: Rows of the token embedding.
        eos_id: EOS id the checkpoint's configuration names, if it does.
        tokenizer_clean: Cleaning rules open_clip's tokenizer uses for this model.
    """

    module: nn.Module = field(repr=False)
    stored_names: dict[str, str] = field(repr=False)
    architecture: dict[str, str | int | float | bool | None]
    hidden_layer: str
    hidden_size: int
    pooled_size: int | None
    max_positions: int | None
    vocab_size: int
    eos_id: int | None = None
    tokenizer_clean: str = "lower"


class Fillable(Protocol):
    """A module without weights, and where each of its tensors lies in a checkpoint; a `TextTower`, for one."""

    @property
    def module(self) -> nn.Module:
        """Built on the meta device."""

    @property
    def stored_names(self) -> dict[str, str]:
        """Name in the checkpoint of each parameter, by its name in the module."""


def match_tensors(
    expected: dict[str, torch.Tensor], tensors: TensorFiles, spellings: Callable[[str], Sequence[str]]
) -> dict[str, str]:
    """Finds every tensor of a tower in a checkpoint and compares the shapes; reads no values.

    Args:
        expected: Parameters of the tower on the meta device.
        spellings: Names a parameter may have in the checkpoint; the first that is there is taken.

    Raises:
        ConfigError: Tensors are missing or have other shapes than the configuration says.
    """
    stored_names: dict[str, str] = {}
    for name in expected:
        stored = next((spelling for spelling in spellings(name) if spelling in tensors.names), None)
        if stored is not None:
            stored_names[name] = stored
    missing = [name for name in expected if name not in stored_names]
    if missing:
        raise ConfigError(
            "weights-tensors-missing",
            where=tensors.where,
            expected=f"the {len(expected)} tensors that the configuration describes",
            actual=f"{len(missing)} missing: {', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''}",
            remedy="use the configuration and weights of the same model, and all of its shards",
        )
    wrong = [
        f"{name} is {tensors.shape(stored_names[name])}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if tensors.shape(stored_names[name]) != tuple(tensor.shape)
    ]
    if wrong:
        raise ConfigError(
            "weights-shape-mismatch",
            where=tensors.where,
            expected="tensors of the shapes that the configuration describes",
            actual="; ".join(wrong[:4]),
            remedy="use the configuration and weights of the same model",
        )
    return stored_names


def digest_weights(tower: Fillable, tensors: TensorFiles) -> str:
    """`weights_sha256` of a tower, streamed: see `WeightsDigest`."""
    digest = WeightsDigest()
    for name, tensor in stored_tensors(tower, tensors):
        digest.add(name, tensor)
    return digest.hexdigest()


def fill_tower(tower: Fillable, tensors: TensorFiles, *, dtype: torch.dtype, device: torch.device) -> str:
    """Gives the module its weights, one tensor at a time, and returns their `weights_sha256`.

    The module ends frozen and in evaluation mode. Memory beyond the module's own is a few tensors.
    """
    digest = WeightsDigest()
    state: dict[str, torch.Tensor] = {}
    for name, tensor in stored_tensors(tower, tensors):
        digest.add(name, tensor)
        # A copy even where nothing changes: mapped files must not stand behind a running model.
        state[name] = tensor.to(device=device, dtype=dtype, copy=True)
    tower.module.load_state_dict(state, assign=True, strict=True)
    tower.module.eval().requires_grad_(False)
    return digest.hexdigest()


def stored_tensors(tower: Fillable, tensors: TensorFiles) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and stored value of each parameter of a tower, one at a time.

    Raises:
        ConfigError: A tensor is no plain floating point.
    """
    for name, stored in tower.stored_names.items():
        tensor = tensors.read(stored)
        if tensor.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            raise ConfigError(
                "weights-dtype-unsupported",
                where=f"{tensors.where}: {stored}",
                expected="float64, float32, bfloat16 or float16",
                actual=str(tensor.dtype).removeprefix("torch."),
                remedy="use weights that are not quantized",
            )
        yield name, tensor

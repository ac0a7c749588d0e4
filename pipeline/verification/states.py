"""What an encoder computes on the way, and what it would give for other ids, pads and positions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.encoders import TextEncoder
from pipeline.encoders.clip_tower import ClipLayer, ClipTower
from pipeline.encoders.t5_tower import T5Tower
from pipeline.verification.comparison import FieldName, Tensors

Ids = npt.NDArray[np.integer]
Array = npt.NDArray[np.float32]


def encode_ids(encoder: TextEncoder, ids: Ids) -> Tensors:
    """Outputs for one row of ids.

    Args:
        encoder: Of `load_for_any_ids`: every id counts as a token, pads too.
        ids: [T].

    Returns:
        hidden [T, D], and for a CLIP pooled [P] and eos [D].
    """
    output = encoder.encode_packed(encoder.pack([ids]))
    found: dict[FieldName, Array] = {"hidden": _array(output.hidden)}
    if output.pooled is not None and output.eos is not None:
        found |= {"pooled": _array(output.pooled[0]), "eos": _array(output.eos[0])}
    return found


@dataclass(frozen=True)
class LayerState:
    """The state of all tokens after some layers.

    Attributes:
        num_layers: How many; 0 for the embeddings.
        all_layers: How many there are.
        is_normed: Whether the final norm was applied.
        values: [T, D].
    """

    num_layers: int
    all_layers: int
    is_normed: bool
    values: Array

    def __str__(self) -> str:
        norm = "with" if self.is_normed else "without"
        return f"the state after {self.num_layers} of {self.all_layers} layers, {norm} the final norm"


def layer_states(encoder: TextEncoder, ids: Ids) -> list[LayerState]:
    """The states after each layer, the encoder's own `hidden` among them."""
    tower = encoder.tower
    assert isinstance(tower, (ClipTower, T5Tower))
    packed, states = encoder.pack([ids]).to(encoder.device), list[torch.Tensor]()

    def keep(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # A copy: T5's layers add to what they are given.
        states.append(inputs[0].clone())

    # A CLIP computes its last layer for EOS alone; what it has before that layer is its output.
    watched = [*tower.layers, tower.final_norm] if isinstance(tower, T5Tower) else list(tower.layers)[:-1]
    hooks = [module.register_forward_pre_hook(keep) for module in watched]
    with torch.inference_mode():
        try:
            output = tower(packed)
        finally:
            for hook in hooks:
                hook.remove()
        if isinstance(tower, ClipTower):
            last: ClipLayer = tower.layers[-1]  # type: ignore[assignment]  # a ModuleList has no type of its modules
            after, _ = last(output.hidden, last.norm_1(output.hidden), packed, tower.final_norm)
            states += [output.hidden, after]
        normed = [tower.final_norm(state) for state in states]
    return [
        LayerState(number, len(tower.layers), is_normed, _array(state))
        for is_normed, found in ((False, states), (True, normed))
        for number, state in enumerate(found)
    ]


def outputs_at(encoder: TextEncoder, ids: Ids) -> tuple[Array, Array]:
    """What a CLIP's pooled and eos would be, taken at each position instead of EOS: [T, P] and [T, D]."""
    length, packed = len(ids), encoder.pack([ids] * len(ids))
    positions = torch.arange(length)
    moved = dataclasses.replace(packed, eos=positions * length + positions)
    output = encoder.encode_packed(moved)
    assert output.pooled is not None
    assert output.eos is not None
    return _array(output.pooled), _array(output.eos)


def padded(ids: Ids, length: int, pad_id: int) -> Ids:
    """Ids filled up to a length."""
    return np.concatenate([ids, np.full(max(0, length - len(ids)), pad_id, ids.dtype)])


def _array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.to("cpu", torch.float32).numpy()
    return array
